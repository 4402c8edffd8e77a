"""The methods of SignalR clients, of both generations: `updateProgress(percent)` and `jobChanged(snapshot)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
from msgspec import Struct

from headway.contracts import JobStatus

from ...watching.snapshot import Encoder, PublishedSnapshot

UPDATE_PROGRESS = "updateProgress"
JOB_CHANGED = "jobChanged"
COMPLETE = b"100"
UNKNOWN = b""


class WireFormat(NamedTuple):
    """How a transport sends messages and snapshots. Make each one once, because its encoders are the keys of caches.

    Attributes:
        frame: encodes messages as the transport sends them.
        changed: encodes a snapshot as a call of `jobChanged`.
        progressed: does so with a call of `updateProgress` before it.
    """

    frame: Callable[[bytes], bytes]
    changed: Encoder
    progressed: Encoder

    def encode_snapshot(self, snapshot: PublishedSnapshot, last_percent: bytes) -> bytes:
        """Return a snapshot for a client with a percentage: `updateProgress` is called only with another one."""
        has_progressed = snapshot.encoded(encode_percent) not in (UNKNOWN, last_percent)
        return snapshot.encoded(self.progressed if has_progressed else self.changed)


class _Progress(Struct, gc=False):
    percent: float | int | None = None


class _SnapshotProgress(Struct, gc=False):
    status: JobStatus
    progress: _Progress | None = None


_decode = msgspec.json.Decoder(_SnapshotProgress).decode


def encode_percent(snapshot: PublishedSnapshot) -> bytes:
    """Return the percentage of a job's progress as JSON, UNKNOWN without one. A job that has succeeded is at 100."""
    try:
        state = _decode(snapshot.text)
    except msgspec.DecodeError:  # the record is from another program
        return UNKNOWN
    if state.status == "succeeded":
        return COMPLETE
    percent = None if state.progress is None else state.progress.percent
    return UNKNOWN if percent is None else msgspec.json.encode(int(percent) if percent == int(percent) else percent)
