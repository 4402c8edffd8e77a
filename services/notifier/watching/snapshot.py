"""Published snapshots: JSON that is forwarded unchanged, and encoded once per wire format."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import msgspec
from msgspec import Struct

from headway.contracts import ENDED, JobSnapshot, JobStatus, Natural, Timestamp, decode, encode
from headway.tokens import Grant

NO_VERSION = -1  # lower than any version


class SnapshotHeader(Struct):
    """The fields that a replica reads. Decoding them also checks that the whole text is JSON."""

    id: UUID
    status: JobStatus
    version: Natural


class PublishedSnapshot:
    """A job's snapshot at one version. `text` is its JSON, and `ended` is whether the job has ended."""

    __slots__ = ("_encoded", "ended", "text", "version")

    def __init__(self, text: bytes) -> None:
        try:
            header = decode(text, SnapshotHeader)
        except msgspec.DecodeError as error:
            raise ValueError("not a snapshot") from error
        self.text = text
        self.version = header.version
        self.ended = header.status in ENDED
        self._encoded: dict[Encoder, bytes] = {}

    @classmethod
    def parse(cls, text: bytes | None) -> PublishedSnapshot | None:
        """Return the snapshot, or None if there is no text or the text is not a snapshot."""
        try:
            return None if text is None else cls(text)
        except ValueError:
            return None

    def encoded(self, encoder: Encoder) -> bytes:
        """Return the snapshot in a wire format, encoded once for all connections that use the format."""
        try:
            return self._encoded[encoder]
        except KeyError:
            return self._encoded.setdefault(encoder, encoder(self))


Encoder = Callable[[PublishedSnapshot], bytes]  # must be a module-level function, as it is the key of the cache


def placeholder_snapshot(grant: Grant) -> bytes:
    """Return the snapshot of a job without a record: `queued`, version 0, with the fields that the token contains."""
    due_at = grant.due_at if grant.due_at is not None and grant.due_at > Timestamp.now() else None
    return encode(
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
