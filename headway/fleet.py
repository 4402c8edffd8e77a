"""The wire contracts of workers and kinds of jobs, as operators see them (`GET /live/workers`, `GET /live/kinds`)."""

from __future__ import annotations

from msgspec import Struct

from headway.contracts import NULL, Json, Timestamp


class Worker(Struct, frozen=True, kw_only=True):
    """A worker that runs.

    Attributes:
        id: its id, as in the details of its jobs.
        host: the name of its machine or container.
        version: its version of Headway.
        queue: the name of its queue.
        slots: how many jobs it runs at most.
        running: how many it runs.
        kinds: the kinds that it runs.
        queue_depth: about how many messages its queue has; None if that is unknown.
        seen_at: when it was seen last.
    """

    id: str
    host: str
    version: str
    queue: str
    slots: int
    running: int
    kinds: tuple[str, ...]
    queue_depth: int | None = None
    seen_at: Timestamp


class HourCounts(Struct, frozen=True, kw_only=True):
    """How many jobs of a kind were submitted, and have ended how, in the hour that begins at `hour`."""

    hour: Timestamp
    submitted: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class Durations(Struct, frozen=True):
    """The median and the 95th percentile of durations, in seconds."""

    p50: float
    p95: float


class Kind(Struct, frozen=True, kw_only=True):
    """A kind of jobs, and how its jobs have fared in the last 24 hours.

    Attributes:
        kind: the kind.
        schema: the JSON Schema of its payload, as JSON; null if it is unknown.
        workers: how many workers run it.
        hours: the last 24 hours, the oldest first.
        rate_per_h: how many jobs were submitted per hour.
        failure_share: the share of failures among the jobs that have succeeded or failed; None without such jobs.
        duration_s: how long the newest successful attempts took; None if there are none.
    """

    kind: str
    schema: Json = NULL
    workers: int = 0
    hours: tuple[HourCounts, ...] = ()
    rate_per_h: float = 0.0
    failure_share: float | None = None
    duration_s: Durations | None = None
