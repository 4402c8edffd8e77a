"""What a worker and the process of a handler say to each other: JSON behind its length, over a pair of sockets."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from headway.context import Attempt
from headway.contracts import Json, Progress

from ..outcomes import Finished, RetryLater

LENGTH = struct.Struct("!I")


class RunAttempt(Struct, frozen=True, tag=True):
    """To the process: run this attempt."""

    module: str
    attempt: Attempt
    payload: Json
    lease_deadline: float


class LeaseExtended(Struct, frozen=True, tag=True):
    """To the process: the job is ours until then, by the monotonic clock."""

    lease_deadline: float


class CheckpointSaved(Struct, frozen=True, tag=True):
    """To the process: the checkpoint is kept."""


class StopAttempt(Struct, frozen=True, tag=True):
    """To the process: end the attempt, and yourself; the handler is told why."""

    reason: str


class ProgressUpdate(Struct, frozen=True, tag=True):
    """From the process: how far the job is."""

    progress: Progress


class SaveCheckpoint(Struct, frozen=True, tag=True):
    """From the process: keep this checkpoint."""

    checkpoint: Json


class LogRecord(Struct, frozen=True, tag=True):
    """From the process: what it logs."""

    logger: str
    level: int
    text: str
    extra: dict[str, str]


class AttemptFinished(Struct, frozen=True, tag=True):
    """From the process: how the attempt ended; `where` is what the log shall know of an exception."""

    outcome: Finished | RetryLater
    traceback: list[str]


ToProcess = RunAttempt | LeaseExtended | CheckpointSaved | StopAttempt
FromProcess = ProgressUpdate | SaveCheckpoint | LogRecord | AttemptFinished


def encode_message(message: ToProcess | FromProcess) -> bytes:
    """Write a frame."""
    text = msgspec.json.encode(message)
    return LENGTH.pack(len(text)) + text


def message_decoder(message_type: Any) -> Callable[[bytes], Any]:
    """Make what reads a frame's text."""
    return msgspec.json.Decoder(message_type).decode
