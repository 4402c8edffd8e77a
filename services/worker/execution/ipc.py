"""The frames that the worker and its handler processes exchange over a socket pair.

A frame has a header, which is the length of its body and the number of the run that it belongs to, and a body of JSON.
A process numbers the attempts that it runs. Its threads and forked children may outlive an attempt, so each side drops
the frames of other runs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from headway.context import Attempt
from headway.contracts import Json, Progress, StepTimes, decode, encode

from ..outcomes import Finished, RetryLater

HEADER = struct.Struct("!II")  # the length of the body in bytes; the number of the run


class RunAttempt(Struct, frozen=True, tag=True):
    """To the process: run this attempt."""

    module: str  # where the job is defined
    attempt: Attempt
    payload: Json
    lease_deadline: float  # monotonic


class LeaseExtended(Struct, frozen=True, tag=True):
    """To the process: the handler may run until this time."""

    lease_deadline: float  # monotonic


class CheckpointSaved(Struct, frozen=True, tag=True):
    """To the process: the checkpoint is saved or, with an error, refused."""

    error: str | None = None


class StopAttempt(Struct, frozen=True, tag=True):
    """To the process: cancel the handler with this reason, then exit."""

    reason: str


class ProgressUpdate(Struct, frozen=True, tag=True, omit_defaults=True):
    """From the process: the handler's latest progress, and its steps if it has any."""

    progress: Progress
    steps: tuple[StepTimes, ...] = ()


class SaveCheckpoint(Struct, frozen=True, tag=True):
    """From the process: save this checkpoint and answer with `CheckpointSaved`."""

    checkpoint: Json


class LogRecord(Struct, frozen=True, tag=True):
    """From the process: log this record; without `is_captured`, a thread of an earlier job has logged it."""

    logger: str
    level: int
    text: str
    extra: dict[str, str]
    is_captured: bool = True


class OutputWritten(Struct, frozen=True, tag=True):
    """From the process: the handler has printed this, besides bytes that were left out."""

    text: str
    left_out_bytes: int = 0


class AttemptFinished(Struct, frozen=True, tag=True):
    """From the process: the outcome of the attempt."""

    outcome: Finished | RetryLater


ToProcess = RunAttempt | LeaseExtended | CheckpointSaved | StopAttempt
FromProcess = ProgressUpdate | SaveCheckpoint | LogRecord | OutputWritten | AttemptFinished


def encode_frame(run: int, frame: ToProcess | FromProcess) -> bytes:
    """Encode a frame that belongs to a run."""
    body = encode(frame)
    return HEADER.pack(len(body), run) + body


def frame_decoder(frame_type: Any) -> Callable[[bytes], Any]:
    """Return a function that decodes the body of a frame of this type."""
    return lambda body: decode(body, frame_type)
