"""The methods of SignalR clients, of both generations: `updateProgress(percent)` and `jobChanged(snapshot)`."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from headway.contracts import JobStatus

from ...watching.snapshot import PublishedSnapshot

UPDATE_PROGRESS = "updateProgress"
JOB_CHANGED = "jobChanged"
COMPLETE = b"100"
UNKNOWN = b""


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
