"""Jobs whose handlers create spans of their own."""

from __future__ import annotations

from typing import Any

from opentelemetry import trace

from headway import Fail, JobContext, job

tracer = trace.get_tracer("shop")


def current_span(ctx: JobContext) -> tuple[str, str, str]:
    """Return the trace and the span that the context names, and the id of OpenTelemetry's current span."""
    span = trace.get_current_span().get_span_context()
    _version, trace_id, span_id, _flags = (ctx.traceparent or "").split("-")
    return trace_id, span_id, trace.format_span_id(span.span_id)


@job("traced-in-thread")
def traced_in_thread(ctx: JobContext, _payload: Any) -> tuple[str, str, str]:
    """Create a span in a thread, and return its parent."""
    with tracer.start_as_current_span("resize the photo"):
        ctx.log.info("photo_resized")
    return current_span(ctx)


@job("traced-in-process", process=True)
def traced_in_process(ctx: JobContext, _payload: Any) -> tuple[str, str, str]:
    """Return the span that a span in a process would have as its parent."""
    return current_span(ctx)


@job("traced-failure", max_attempts=2, backoff_s=0.05)
async def traced_failure(ctx: JobContext, payload: str) -> None:
    """Fail with the payload in the error, at first unexpectedly."""
    if ctx.attempt == 1:
        raise ValueError(payload)
    raise Fail(payload)
