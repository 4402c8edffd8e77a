"""How an attempt can end: by itself, or because something stops it."""

from __future__ import annotations

from enum import Enum, auto

from msgspec import Struct

from headway.contracts import MAX_ERROR, MAX_NAME, NULL, JobError, JobStatus, Json, Timestamp, shortened


class Ending(Struct, frozen=True):
    """How a job ended."""

    status: JobStatus
    result: Json = NULL
    error: JobError | None = None
    due_at: None = None

    @classmethod
    def failed(cls, kind: str, message: str) -> Ending:
        """End a job `failed`, with an error for its user."""
        return cls("failed", error=JobError(kind[:MAX_NAME], shortened(message, MAX_ERROR)))


class Again(Struct, frozen=True):
    """An attempt that asks for another one; without `after_s`, by the kind's backoff."""

    error: JobError
    after_s: float | None = None
    status: JobStatus = "retrying"
    result: Json = NULL

    @property
    def due_at(self) -> Timestamp:
        """When the next attempt is, counted from now."""
        return Timestamp.now().after(self.after_s or 0)


class Interruption(Enum):
    """Why a delivery goes no further."""

    CANCELLED = auto()  # a watcher asked for it
    FINISHED = auto()  # the job has ended, or is another message's: this message is of no more use
    SUPERSEDED = auto()  # another delivery has the job: touch nothing
    LEASE_LOST = auto()  # the message is another worker's, or may be: touch nothing
    REFUSED = auto()  # the notifier finds the reports themselves wrong: a human must look
    STOPPED = auto()  # this worker stops: hand the message back

    @property
    def word(self) -> str:
        """Why a handler is cancelled, as it is told."""
        return {Interruption.CANCELLED: "cancel", Interruption.STOPPED: "stop"}.get(self, "lease")


Outcome = Ending | Again | Interruption

# What a verdict that refuses a report means.
REASONS = {
    "finished": Interruption.FINISHED,
    "duplicate": Interruption.FINISHED,
    "superseded": Interruption.SUPERSEDED,
    "stale": Interruption.SUPERSEDED,
}
