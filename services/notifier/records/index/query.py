"""Queries for jobs, and the cursors that continue them."""

from __future__ import annotations

import math
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from headway.contracts import ENDED, JobStatus, Timestamp, encode
from headway.labels import ALL_JOBS, NO_LABELS, JobFilter

from .entries import IndexedRecord

MAX_PAGE = 200  # jobs
DEFAULT_PAGE = 50
CHECKSUM_BYTES = 8
_SCORE = struct.Struct(">d")


class InvalidCursor(ValueError):
    """The cursor was altered, or belongs to another query."""


class Position(NamedTuple):
    """A position in a list: the time in milliseconds by which it is sorted, and the job's id in bytes."""

    score: float
    member: bytes


TOP = Position(math.inf, b"")  # before the newest job; a list leads to lower positions


class JobQuery(Struct, frozen=True, kw_only=True):
    """Selects jobs, newest first.

    Attributes:
        filter: an owner, a tag and a kind.
        tags: further tags, all of which a job must have.
        statuses: a job must have one of these; empty for all.
        since: the earliest time, by which the list is sorted: that of the job's end if `statuses` has only final ones,
            otherwise that of its submission.
        until: the end of the times; a job at exactly this time is not selected.
        attempts_min: the number of attempts that a job must have reached.
        error_type: the type of the true error that a job must have.
        limit: how many jobs a page has at most.
        cursor: the `next` of the page before.
        exhaustive: whether the pages must have every job, though many of them may then be short or empty.
    """

    filter: JobFilter = ALL_JOBS
    tags: tuple[str, ...] = ()
    statuses: frozenset[JobStatus] = frozenset()
    since: Timestamp | None = None
    until: Timestamp | None = None
    attempts_min: int = 1
    error_type: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: str | None = None
    exhaustive: bool = False

    @property
    def by_end(self) -> bool:
        """Whether the list is sorted by the ends of the jobs, not by their submissions."""
        return bool(self.statuses) and self.statuses <= ENDED

    @property
    def all_tags(self) -> frozenset[str]:
        """The tags that a job must have."""
        return frozenset(self.tags if self.filter.tag is None else (*self.tags, self.filter.tag))

    def time_of(self, record: IndexedRecord) -> Timestamp | None:
        """Return the time by which a job is sorted; None if it has not ended."""
        return record.finished_at if self.by_end else record.submitted_at

    def matches(self, record: IndexedRecord) -> bool:
        """Return whether the query selects a job."""
        labels, time = record.labels or NO_LABELS, self.time_of(record)
        return (
            (not self.statuses or record.status in self.statuses)
            and self.filter.matches(record.kind, labels)
            and self.all_tags <= set(labels.tags)
            and record.attempt >= self.attempts_min
            and self.error_type in (None, record.true_error_type)
            and time is not None
            and (self.since is None or self.since <= time)
            and (self.until is None or time < self.until)
        )

    def start(self) -> Position:
        """Return the position after which the page begins.

        Raises:
            InvalidCursor: the cursor was altered, or belongs to another query.
        """
        top = TOP if self.until is None else Position(float(self.until), b"")
        return top if self.cursor is None else min(top, self._decode(self.cursor))

    def cursor_after(self, position: Position) -> str:
        """Return the cursor of the page that begins after a position."""
        text = _SCORE.pack(position.score) + position.member
        return urlsafe_b64encode(self._checksum(text) + text).decode().rstrip("=")

    def _decode(self, cursor: str) -> Position:
        try:
            data = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))[CHECKSUM_BYTES:]
            position = Position(_SCORE.unpack_from(data)[0], data[_SCORE.size :])
        except (ValueError, struct.error):
            position = TOP
        if self.cursor_after(position) != cursor:  # also if its encoding is not the canonical one
            raise InvalidCursor("Expected `cursor` to be the `next` of the same query's previous page")
        return position

    def _checksum(self, text: bytes) -> bytes:
        """Return a checksum of a position and of all that decides which jobs follow; a page's size does not."""
        criteria = (
            self.filter,
            sorted(self.tags),
            sorted(self.statuses),
            self.since,
            self.until,
            self.attempts_min,
            self.error_type,
        )
        return blake2b(encode(criteria) + text, digest_size=CHECKSUM_BYTES).digest()
