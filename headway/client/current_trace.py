"""The trace of the calling program, which the jobs that it submits belong to."""

from __future__ import annotations

import sys


def trace_headers() -> dict[str, str]:
    """Return the headers that name the current span, if the program uses OpenTelemetry and has one.

    A program that does not use it has not imported it, and does not do so here.
    """
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers
