"""What one HMGET reads of a job's record: the snapshot, and the hidden fields, which clients do not see."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from headway.contracts import OPTIONAL_SNAPSHOT_FIELDS, JobSnapshot, decode
from headway.labels import NO_LABELS, JobFilter, Labels

# Their order is that of `snapshot()` in job_record.lua.
SNAPSHOT_FIELDS = tuple(name for name in JobSnapshot.__struct_fields__ if name not in OPTIONAL_SNAPSHOT_FIELDS)
HIDDEN_FIELDS = ("labels", "worker", "error_type")
READ_FIELDS = (*SNAPSHOT_FIELDS, *OPTIONAL_SNAPSHOT_FIELDS, *HIDDEN_FIELDS)
_SNAPSHOT_FORMAT = b",".join(b'"%b":%%b' % name.encode() for name in SNAPSHOT_FIELDS)
_OPTIONAL_FORMATS = [b',"%b":%%b' % name.encode() for name in OPTIONAL_SNAPSHOT_FIELDS]
_KIND, _ERROR = SNAPSHOT_FIELDS.index("kind"), SNAPSHOT_FIELDS.index("error")
_EMPTY = (None, b"null", b"")


class RecordRead(Struct, frozen=True):
    """A job's record. Another program may have changed it, so that it may contain anything.

    Attributes:
        snapshot: the bytes that the record script publishes; `PublishedSnapshot` validates them.
    """

    snapshot: bytes
    _kind: bytes
    _labels: bytes | None
    _worker: bytes | None = None
    _error_type: bytes | None = None

    @property
    def kind(self) -> str:
        """The kind of the job; empty if the record's is invalid."""
        try:
            return decode(self._kind, str)
        except msgspec.DecodeError:
            return ""

    @property
    def labels(self) -> Labels:
        """The labels of the job; none if it has none, or the record's are invalid."""
        if self._labels in _EMPTY:
            return NO_LABELS
        try:
            return decode(self._labels, Labels)
        except msgspec.DecodeError:
            return NO_LABELS

    @property
    def worker(self) -> str | None:
        """The id of the worker that reported last, if it has one."""
        return None if self._worker in _EMPTY else self._worker.decode(errors="replace")

    @property
    def error_type(self) -> str | None:
        """The type of the true error, if clients see another one."""
        try:
            return None if self._error_type in _EMPTY else decode(self._error_type, str)
        except msgspec.DecodeError:
            return None

    @property
    def filtered_fields(self) -> tuple[bytes, bytes]:
        """The JSON of the kind and of the labels, as the record script has them."""
        return self._kind, b"null" if self._labels in _EMPTY else self._labels

    def matches(self, job_filter: JobFilter) -> bool:
        """Return whether a filter selects the job."""
        return job_filter.matches(self.kind, self.labels)


def record_from_reply(reply: list[bytes | None]) -> RecordRead | None:
    """Return the record for the reply of `HMGET` with READ_FIELDS, or None if it lacks a field of every snapshot."""
    count = len(SNAPSHOT_FIELDS)
    required, optional = [value for value in reply[:count] if value is not None], reply[count : -len(HIDDEN_FIELDS)]
    if len(required) < count:
        return None
    present = [text % (value,) for text, value in zip(_OPTIONAL_FORMATS, optional, strict=True) if value not in _EMPTY]
    snapshot = b"{%b%b}" % (_SNAPSHOT_FORMAT % tuple(required), b"".join(present))
    labels, worker, error_type = reply[-len(HIDDEN_FIELDS) :]
    if required[_ERROR] == b"null":
        error_type = None  # of an earlier error
    return RecordRead(snapshot, required[_KIND], labels, worker, error_type)
