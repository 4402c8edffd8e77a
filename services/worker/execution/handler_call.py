"""Finds and calls the handler of an attempt in its process."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from headway import Job, JobContext
from headway.trace_context import parse_traceparent


def find_job(module: str, kind: str) -> Job[Any, Any]:
    """Import a module and return its job of this kind."""
    jobs = vars(importlib.import_module(module)).values()
    return next(job for job in jobs if isinstance(job, Job) and job.kind == kind)


def call_handler(job: Job[Any, Any], context: JobContext, payload: Any) -> Any:
    """Call a handler, within the span of its attempt if it has one and the job's module has imported OpenTelemetry."""
    trace = parse_traceparent(context.traceparent)
    if trace is None or "opentelemetry.trace" not in sys.modules:
        return job.handler(context, payload)
    from ...runtime.current_trace import continued_trace

    with continued_trace(trace):
        return job.handler(context, payload)
