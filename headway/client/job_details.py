"""What operators see of a job in addition to its snapshot."""

from __future__ import annotations

from msgspec import Struct

from headway.contracts import NULL, Json, StepTimes, Timestamp
from headway.details import OperatorAction
from headway.labels import NO_LABELS, Labels


class TrueError(Struct, frozen=True):
    """The error of an attempt, as the handler raised it; users may see a general one instead."""

    type: str
    message: str | None = None  # None: it was lost
    traceback: str | None = None


class Attempt(Struct, frozen=True, kw_only=True):
    """An attempt of a job with its true error; `outcome` is as in a snapshot's `earlier_attempts`."""

    attempt: int
    started_at: Timestamp | None = None
    ended_at: Timestamp | None = None
    outcome: str | None = None
    error: TrueError | None = None


class JobDetails(Struct, frozen=True, kw_only=True):
    """What operators see of a job in addition to its snapshot.

    Attributes:
        labels: the name, the owner and the tags.
        kept: whether the queue message was kept, so that the job can run again.
        payload, checkpoint: those of the kept message, as JSON.
        error: the true error, with its traceback.
        worker: the id of the worker that has run the job last.
        attempts: the earlier attempts, and then the current one.
        steps: the steps of the current attempt.
        trace_id: the id of the trace that the job belongs to.
        actions: what operators did with the job, the newest first.
    """

    labels: Labels = NO_LABELS
    kept: bool = False
    payload: Json = NULL
    checkpoint: Json = NULL
    error: TrueError | None = None
    worker: str | None = None
    attempts: tuple[Attempt, ...] = ()
    steps: tuple[StepTimes, ...] = ()
    trace_id: str | None = None
    actions: tuple[OperatorAction, ...] = ()
