"""The parser of `traceparent`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import INVALID_SPAN_CONTEXT, format_span_id, format_trace_id, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from headway.labels import Labels, trace_of
from headway.trace_context import TraceContext, parse_traceparent, trace_fields

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
INVALID = {
    "none": None,
    "empty": "",
    "upper case": TRACEPARENT.upper(),
    "a field too many": f"{TRACEPARENT}-00",
    "a field too few": TRACEPARENT[:-3],
    "no trace": f"00-{'0' * 32}-{SPAN_ID}-01",
    "no span": f"00-{TRACE_ID}-{'0' * 16}-01",
    "a forbidden version": f"ff{TRACEPARENT[2:]}",
    "no separator": f"01{TRACEPARENT[2:]}00",
    "a line feed": f"{TRACEPARENT}\n",
    "other digits": TRACEPARENT.replace("0af7", "\u0660af7"),
}
DIGITS = st.text("0123456789abcdef", min_size=1, max_size=34)


@pytest.mark.parametrize(("flags", "is_sampled"), [("00", False), ("01", True), ("02", False), ("ff", True)])
def test_a_traceparent_names_a_trace(flags: str, is_sampled: bool) -> None:
    """Its parts are the ids and the flags, of which one says whether the trace is recorded."""
    trace = parse_traceparent(f"00-{TRACE_ID}-{SPAN_ID}-{flags}")
    assert trace == TraceContext(TRACE_ID, SPAN_ID, flags)
    assert trace.is_sampled is is_sampled
    assert str(trace) == f"00-{TRACE_ID}-{SPAN_ID}-{flags}"


def test_fields_of_a_later_version_are_dropped() -> None:
    """The fields that this version knows have the same places in it."""
    assert str(parse_traceparent(f"cc{TRACEPARENT[2:]}-what-ever")) == TRACEPARENT


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
def test_what_is_invalid_is_ignored(text: str | None) -> None:
    """The job then belongs to no trace."""
    assert parse_traceparent(text) is None


@given(
    st.one_of(st.lists(DIGITS, max_size=6).map("-".join), st.from_regex(r"[0-9a-f]{2}-0{31}[01]-[0f]{16}-0[01](-x)?\Z"))
)
def test_opentelemetry_agrees(text: str) -> None:
    """The same texts are valid for its propagator, with the same ids."""
    extracted = TraceContextTextMapPropagator().extract({"traceparent": text})
    span = get_current_span(extracted).get_span_context()
    trace = parse_traceparent(text)
    if trace is None:
        assert span == INVALID_SPAN_CONTEXT
    else:
        assert (format_trace_id(span.trace_id), format_span_id(span.span_id)) == (trace.trace_id, trace.span_id)


def test_log_lines_of_a_job_name_its_trace() -> None:
    """The trace is in the labels of the job; without labels, or with a text of another program there, there is none."""
    assert trace_fields(trace_of(Labels(trace=TRACEPARENT))) == {"trace_id": TRACE_ID}
    for labels in (None, Labels(), Labels(trace="abc")):
        assert trace_fields(trace_of(labels)) == {}
