"""The current span of OpenTelemetry, by its API alone. Import this only where traces are on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)

from headway.trace_context import TraceContext


def span_context(trace: TraceContext) -> SpanContext:
    """Return a span of another process as OpenTelemetry represents it."""
    flags = TraceFlags(int(trace.flags, 16))
    return SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), is_remote=True, trace_flags=flags)


def context_of(trace: TraceContext | None) -> Context:
    """Return a context in which this span is the current one; without a span, one that has none."""
    empty = Context()
    return empty if trace is None else set_span_in_context(NonRecordingSpan(span_context(trace)), empty)


def trace_of_span(span: Span) -> TraceContext:
    """Return what other processes need to continue the trace of a span."""
    context = span.get_span_context()
    return TraceContext(
        format_trace_id(context.trace_id), format_span_id(context.span_id), f"{int(context.trace_flags):02x}"
    )


@contextmanager
def continued_trace(trace: TraceContext) -> Iterator[None]:
    """Run the block with a span of another process as the current one, so that new spans are its children."""
    token = attach(context_of(trace))
    try:
        yield
    finally:
        detach(token)
