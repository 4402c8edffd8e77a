"""Published snapshots: the JSON is forwarded to clients unchanged, and encoded once per wire format."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog
from msgspec import Struct

from headway.contracts import ENDED, JobSnapshot, JobStatus, Natural, Timestamp, encode_snapshot
from headway.tokens import Grant

from ..records.record_read import RecordRead

log: structlog.stdlib.BoundLogger = structlog.get_logger()

NO_VERSION = -1  # lower than any version


class SnapshotHeader(Struct, gc=False):
    """The fields of a snapshot that the notifier needs. Decoding them also checks that the whole text is JSON."""

    id: str
    status: JobStatus
    version: Natural
    lease_until: str | None = None


_decode_header = msgspec.json.Decoder(SnapshotHeader).decode


class PublishedSnapshot:
    """A job's snapshot at one version.

    Attributes:
        text: the snapshot as JSON.
        version: the version of the job's record.
        status: the job's status.
        ended: whether the job has ended.
        has_lease: whether a worker has leased the job, which gives signs of life while it runs.
    """

    __slots__ = ("_encoded", "ended", "has_lease", "status", "text", "version")

    def __init__(self, text: bytes) -> None:
        """Parse the header.

        Raises:
            ValueError: the text is not a snapshot in JSON.
        """
        try:
            header = _decode_header(text.decode())  # msgspec does not check the UTF-8 of texts that it skips
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError("expected a snapshot in JSON") from error
        self.text = text
        self.version = header.version
        self.status = header.status
        self.ended = header.status in ENDED
        self.has_lease = header.lease_until is not None
        self._encoded: dict[Encoder, bytes] = {}

    @classmethod
    def from_record(cls, job_id: str, record: RecordRead | None) -> PublishedSnapshot | None:
        """Return the snapshot of a record, or None if there is no record or it is not valid."""
        return None if record is None else cls.parse(job_id, record.snapshot)

    @classmethod
    def parse(cls, job_id: str, text: bytes) -> PublishedSnapshot | None:
        """Return the snapshot, or None if the text is not one."""
        try:
            return cls(text)
        except ValueError:
            log.warning("invalid_record_ignored", job_id=job_id)
            return None

    def encoded(self, encoder: Encoder) -> bytes:
        """Return the snapshot in the wire format of an encoder, which is called once for all connections."""
        try:
            return self._encoded[encoder]
        except KeyError:
            return self._encoded.setdefault(encoder, encoder(self))


# A function of a module, or a method of an object that a module has: it is the key of a cache.
Encoder = Callable[[PublishedSnapshot], bytes]


def placeholder_snapshot(grant: Grant) -> bytes:
    """Return the JSON snapshot of a job without a record: `queued`, version 0, with the facts from the token."""
    due_at = grant.due_at if grant.due_at is not None and grant.due_at > Timestamp.now() else None
    return encode_snapshot(
        JobSnapshot(
            id=grant.job_id,
            kind=grant.kind,
            status="queued",
            version=0,
            submitted_at=grant.submitted_at,
            due_at=due_at,
            expires_at=grant.expires_at,
        )
    )
