"""The wire contracts of what operators see: logs of jobs, workers, and the records that a job is run again from.

All of it is sent between the services with a report key, on their internal listeners.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta, Struct, field, to_builtins

from headway.contracts import NULL, JobStatus, Json, Name, Natural, Positive, Timestamp
from headway.labels import MAX_KIND_LENGTH, MAX_TAGS, Kind, Labels, Owner, Tag

MAX_LOG_BYTES = 64 * 1024  # of the log of a job, while it runs and after a failure
MAX_SUCCEEDED_LOG_BYTES = 8 * 1024  # of the log of a job that has succeeded or was cancelled
MAX_APPEND_BYTES = 32 * 1024  # of one append of a worker; the notifier accepts MAX_LOG_BYTES
MAX_APPENDS_PER_REQUEST = 500
MAX_APPENDS_BYTES = 1024 * 1024  # of one request
MAX_SCHEMA_BYTES = 16 * 1024  # of the payload of one kind
MAX_WORKER_BYTES = 512 * 1024  # of all schemas of a worker

MAX_STATUSES = 6

BULK_KIND = "headway.bulk"
BulkAction = Literal["redrive", "cancel", "rerun"]
LogRejection = Literal["unknown", "superseded", "full", "unavailable"]


class LogAppend(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A text that a worker adds to a job's log (`POST /logs`).

    Attributes:
        job_id, generation, message_id, delivery, attempt: as in the reports of the delivery.
        start: the byte offset of the text in the log of this delivery; on the wire `from`. A gap before it is marked.
        text: whole characters. It may be empty in the last append of a delivery, after which the log may be shortened.
        watchers: whether everyone who watches the job may read the log, not only holders of the scope `details`.
        more: whether another append of this delivery follows. If none does, the next delivery begins after a mark.
    """

    job_id: UUID
    generation: Natural = 0
    message_id: Name
    delivery: Positive
    attempt: Positive = 1
    start: Natural = field(name="from")
    text: Annotated[str, Meta(max_length=MAX_LOG_BYTES)]
    watchers: bool = False
    more: bool = False


class LogVerdict(Struct, frozen=True):
    """The notifier's answer to one append.

    Attributes:
        accepted: whether the log has the text now, or had it already.
        reason: why the append was rejected, None if it was accepted. `unknown`: the job has no record of this delivery
            yet. `superseded`: the record names another delivery, or the job was erased, so that this one may no longer
            append. `full`: Redis has no memory left for logs. `unavailable`: the part of Redis that has this log does
            not answer; send the same append again.
    """

    job_id: UUID
    accepted: bool
    reason: LogRejection | None = None


class OperatorAction(Struct, frozen=True):
    """What an operator did with a job.

    Attributes:
        action: the action; `rerun` is that by which the job was submitted.
        by: the name of the API key.
        generation: the generation of the job after the action.
        at: when.
    """

    action: Literal["cancel", "redrive", "rerun", "erase"]
    by: str
    generation: int
    at: Timestamp


class KindInfo(Struct, frozen=True):
    """A kind of job that a worker runs, with the JSON Schema of its payload, null if it has none or is too large."""

    kind: Name
    schema: Json = NULL


class WorkerInfo(Struct, frozen=True, kw_only=True):
    """A worker, as it posts itself every few seconds (`POST /workers`).

    Attributes:
        id: the worker's id, as in its reports.
        host: the name of its machine or container.
        version: its version of Headway.
        queue: the name of its queue.
        slots, running: how many jobs it runs at most, and now.
        kinds: the kinds it runs.
        queue_depth: about how many messages the queue has, None if that is unknown.
    """

    id: Name
    host: Name
    version: Name
    queue: Name
    slots: Natural
    running: Natural
    kinds: Annotated[tuple[KindInfo, ...], Meta(max_length=1000)]
    queue_depth: Natural | None = None


class KeptJob(Struct, frozen=True, kw_only=True):
    """A job as another service reads it (`GET /jobs/{id}` of the notifier's internal listener).

    Attributes:
        status, generation, kind, labels: those of its record.
        message: the text of its queue message, None if it was not kept.
        snapshot: the snapshot that clients see.
        erased: whether the job was erased in this generation, so that no copy of its message may be used.
    """

    status: JobStatus
    generation: Natural
    kind: str
    labels: Labels
    message: str | None = None
    snapshot: Json
    erased: bool = False


class JobCriteria(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What selects jobs, for lists and for bulk actions. Each of them has `status` in forms of its own."""

    kind: Kind | None = None
    tag: Tag | Annotated[tuple[Tag, ...], Meta(max_length=MAX_TAGS)] = ()
    owner: Owner | None = None
    since: Timestamp | None = None
    until: Timestamp | None = None
    attempts_min: Positive = 1
    error_type: Annotated[str, Meta(min_length=1, max_length=MAX_KIND_LENGTH)] | None = None

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags, all of which a job must have."""
        return self.tag if isinstance(self.tag, tuple) else (self.tag,)


class BulkFilter(JobCriteria, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The jobs of a bulk action: the parameters of `GET /live/jobs`, with one or several statuses and tags."""

    status: JobStatus | Annotated[tuple[JobStatus, ...], Meta(max_length=MAX_STATUSES)] = ()

    @property
    def statuses(self) -> tuple[JobStatus, ...]:
        """The statuses, of which a job must have one; empty for all."""
        return self.status if isinstance(self.status, tuple) else (self.status,)

    def selects_kind(self, action: BulkAction, kind: str) -> bool:
        """Return whether an action applies to jobs of a kind.

        A bulk action runs again only if the filter names its kind. Otherwise its jobs would run again twice.
        """
        return action == "cancel" or kind != BULK_KIND or self.kind == BULK_KIND

    def parameters(self) -> list[tuple[str, str]]:
        """Return the parameters of a query string that selects the jobs."""
        return [
            (name, str(value))
            for name, values in to_builtins(self, enc_hook=str).items()
            for value in (values if isinstance(values, (list, tuple)) else [values])
        ]


class RedrivenJob(Struct, frozen=True):
    """A job that runs again; `generation` counts how often it was redriven."""

    id: UUID
    generation: Natural
    status: JobStatus = "queued"


class BulkExample(Struct, frozen=True, kw_only=True):
    """One of the jobs that a bulk action selects; `error_type` is None for those who may not see it."""

    id: UUID
    kind: str
    name: str | None = None
    status: JobStatus
    error_type: str | None = None


class BulkPreview(Struct, frozen=True):
    """What a bulk action would act on: how many jobs at least, whether these are all, and the newest ones."""

    count: int
    complete: bool = True
    examples: tuple[BulkExample, ...] = ()


class BulkRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The payload of a job of the kind `headway.bulk`, which acts on all jobs that a filter selects.

    Attributes:
        action: what to do with each job.
        filter: the jobs; `until` excludes what happens after the request.
        total: how many jobs there were at the request, None if they were too many to count.
        by: the name of the API key with which the action was requested.
    """

    action: BulkAction
    filter: BulkFilter
    total: Natural | None = None
    by: str = ""
