"""Labels: what people and programs call a job and find it by. Filters select jobs by them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from headway.trace_context import TraceContext, parse_traceparent

MAX_KIND_LENGTH = 128  # characters of a kind
RESERVED_PREFIX = "headway."  # of the kinds of built-in jobs
MAX_LABELS_BYTES = 2048  # of all labels of a job, as JSON
MAX_TAGS = 8

# msgspec searches for patterns, so they need anchors. \Z is the end; $ also matches before a line feed at the end.
_VISIBLE_LINE = r"\A(?=.*\S)[^\x00-\x1f\x7f-\x9f\u2028\u2029]+\Z"  # has something to see, and no control characters

DisplayName = Annotated[str, Meta(min_length=1, max_length=200, pattern=_VISIBLE_LINE)]
Owner = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"\A[^\s{}\x00-\x1f\x7f]+\Z")]
Tag = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\A[\w:.@/-]+\Z")]
Trace = Annotated[str, Meta(max_length=512)]
Kind = Annotated[str, Meta(min_length=1, max_length=MAX_KIND_LENGTH)]


class Labels(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The labels of a job.

    Attributes:
        name: what people call the job; everyone who may watch it sees it.
        owner: the user or customer whom it belongs to, in the application's terms.
        tags: further names to find it by.
        trace: the W3C trace context of its submission (`traceparent`).
    """

    name: DisplayName | None = None
    owner: Owner | None = None
    tags: Annotated[tuple[Tag, ...], Meta(max_length=MAX_TAGS)] = ()
    trace: Trace | None = None


NO_LABELS = Labels()


def trace_of(labels: Labels | None) -> TraceContext | None:
    """Return the span of the submission of a job with these labels, if it was submitted in a trace."""
    return None if labels is None else parse_traceparent(labels.trace)


class JobFilter(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Selects jobs by labels and kind; an empty filter selects all jobs."""

    owner: Owner | None = None
    tag: Tag | None = None
    kind: Kind | None = None

    def matches(self, kind: str, labels: Labels) -> bool:
        """Return whether the filter selects a job."""
        return (
            self.owner in (None, labels.owner)
            and (self.tag is None or self.tag in labels.tags)
            and self.kind in (None, kind)
        )


ALL_JOBS = JobFilter()
