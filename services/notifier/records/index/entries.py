"""The entries of a record: the sets that the job belongs to, with its score in each.

The index is a function of the records: an entry is right if it is one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from headway.contracts import ENDED, JobStatus, decode
from headway.labels import NO_LABELS, Labels
from headway.timestamp import Timestamp

from ..record_read import RecordRead
from . import keys


class ErrorType(Struct, frozen=True):
    """The error of a record without its message."""

    type: str


class IndexedRecord(Struct, frozen=True):
    """The fields of a record by which jobs are listed; `error_type` is hidden from users, whose `error` has another."""

    status: JobStatus
    kind: str
    submitted_at: Timestamp
    attempt: int
    finished_at: Timestamp | None = None
    error: ErrorType | None = None
    labels: Labels | None = None
    error_type: str | None = None

    @property
    def true_error_type(self) -> str | None:
        """The type of the job's error as operators see it, if it has one."""
        return None if self.error is None else self.error_type or self.error.type


INDEXED_FIELDS = IndexedRecord.__struct_fields__
ACTIVE_SETS: dict[JobStatus, tuple[Sequence[str], ...]] = {  # of the jobs that have not ended, each split into shards
    "queued": (keys.WAITING,),
    "retrying": (keys.WAITING, keys.RETRYING),
    "running": (keys.RUNNING,),
}


class Entry(NamedTuple):
    """The membership of a job in a set; the score is a time in milliseconds."""

    name: str
    score: float


def parse_record(values: Sequence[bytes | None]) -> IndexedRecord | None:
    """Return a record from the values of INDEXED_FIELDS, or None if there is no record or it is not valid."""
    fields = [b'"%b":%b' % (name.encode(), value) for name, value in zip(INDEXED_FIELDS, values, strict=True) if value]
    if not fields:
        return None
    try:
        return decode(b"{%b}" % b",".join(fields), IndexedRecord)
    except msgspec.DecodeError:
        return None


def record_of(read: RecordRead) -> IndexedRecord | None:
    """Return the record that was read with its snapshot, or None if it is not valid."""
    try:
        return replace(decode(read.snapshot, IndexedRecord), labels=read.labels, error_type=read.error_type)
    except msgspec.DecodeError:
        return None


def shard_of(member: bytes) -> int:
    """Return the shard of a job that has not ended."""
    return member[-1] % keys.SHARDS


def entries_of(record: IndexedRecord | None, member: bytes) -> list[Entry]:
    """Return the entries of a job; without a record it has none."""
    if record is None:
        return []
    labels = record.labels or NO_LABELS
    submitted = record.submitted_at
    names = [keys.kind_name(record.kind, submitted)]
    names += [shards[shard_of(member)] for shards in ACTIVE_SETS.get(record.status, ())]
    entries = [Entry(name, submitted) for name in [*names, *list_names(labels)]]
    if record.status in ENDED and record.finished_at is not None:
        entries.append(Entry(keys.ended_name(record.status, record.kind, record.finished_at), record.finished_at))
    return entries


def list_names(labels: Labels) -> list[str]:
    """Return the names of the sets of a job's owner and tags."""
    owner = [] if labels.owner is None else [keys.owner_name(labels.owner)]
    return owner + [keys.tag_name(tag) for tag in labels.tags]
