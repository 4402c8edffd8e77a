"""The trace that a job belongs to, as W3C Trace Context writes it: https://www.w3.org/TR/trace-context/."""

from __future__ import annotations

import re
from typing import NamedTuple

TRACEPARENT = "traceparent"  # the name of the header
_PATTERN = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class TraceContext(NamedTuple):
    """A span of a trace, which may have spans of other processes as its children.

    Attributes:
        trace_id: the id of the trace, 32 hexadecimal digits.
        span_id: the id of the span, 16 hexadecimal digits.
        flags: two hexadecimal digits.
    """

    trace_id: str
    span_id: str
    flags: str

    @property
    def is_sampled(self) -> bool:
        """Whether the spans of the trace are recorded."""
        return bool(int(self.flags, 16) & 1)

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def parse_traceparent(text: str | None) -> TraceContext | None:
    """Parse a `traceparent`; return None without one, and for an invalid one, which the standard tells to ignore.

    A later version of the standard may have appended fields, which are dropped.
    """
    found = _PATTERN.fullmatch(text or "")
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, flags)


def trace_fields(trace: TraceContext | None) -> dict[str, str]:
    """Return the id of a trace as the fields of a log line; none without a trace."""
    return {} if trace is None else {"trace_id": trace.trace_id}
