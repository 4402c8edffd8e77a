"""What a worker and the process of a handler say to each other: JSON behind its length, over a pair of sockets."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from headway.context import Attempt
from headway.contracts import Json, Progress
from services.worker.outcomes import Again, Ending

LENGTH = struct.Struct("!I")


class Run(Struct, frozen=True, tag=True):
    """To the process: run this attempt."""

    module: str
    attempt: Attempt
    payload: Json
    until: float


class Until(Struct, frozen=True, tag=True):
    """To the process: the job is ours until then, by the monotonic clock."""

    until: float


class Saved(Struct, frozen=True, tag=True):
    """To the process: the checkpoint is kept."""


class Stop(Struct, frozen=True, tag=True):
    """To the process: end the attempt, and yourself; the handler is told why."""

    reason: str


class Shown(Struct, frozen=True, tag=True):
    """From the process: how far the job is."""

    progress: Progress


class Save(Struct, frozen=True, tag=True):
    """From the process: keep this checkpoint."""

    checkpoint: Json


class Logged(Struct, frozen=True, tag=True):
    """From the process: what it logs."""

    logger: str
    level: int
    text: str
    added: dict[str, str]


class Ended(Struct, frozen=True, tag=True):
    """From the process: how the attempt ended; `where` is what the log shall know of an exception."""

    outcome: Ending | Again
    where: list[str]


ToProcess = Run | Until | Saved | Stop
FromProcess = Shown | Save | Logged | Ended


def frame(told: ToProcess | FromProcess) -> bytes:
    """Write a frame."""
    text = msgspec.json.encode(told)
    return LENGTH.pack(len(text)) + text


def reader(kind: Any) -> Callable[[bytes], Any]:
    """Make what reads a frame's text."""
    return msgspec.json.Decoder(kind).decode
