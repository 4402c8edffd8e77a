"""Reads since when jobs wait. A job that is not due, such as one with a delay, does not count."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import DecodeError, Struct

from headway.contracts import JobStatus, Timestamp, decode

from ...redis_client.topology import RedisClient
from ..store import JobStore
from . import keys
from .lookup import typed_reply

CANDIDATES = (4, 64)  # of each shard, at first and at most; if none of them is due, the answer is unknown


class _WaitingJob(Struct, frozen=True):
    """The fields of a snapshot that say whether a job waits for a worker."""

    status: JobStatus
    submitted_at: Timestamp
    redriven_at: Timestamp | None = None
    due_at: Timestamp | None = None

    @property
    def since(self) -> Timestamp:
        """When the job began to wait."""
        return self.redriven_at or self.submitted_at


async def read_oldest(redis: RedisClient, store: JobStore) -> Timestamp | None:
    """Return since when the job that waits longest does, its submission or its last redrive; None if no due job waits.

    Jobs are read in the order of their submissions. Those that were run again are early in it although they wait for a
    short time, so a shard is read on while it may have a job that has waited longer.

    Raises:
        RedisError, OSError: Redis is unavailable.
    """
    oldest: Timestamp | None = None
    shards, first = keys.WAITING, 0
    for end in CANDIDATES:
        sets = map(keys.index_key, shards)
        replies = await redis.execute([(key, ("ZRANGE", key, first, end - 1, "WITHSCORES")) for key in sets])
        found = [typed_reply(reply) or [] for reply in replies]
        ids = [keys.job_id_of(member) for values in found for member in values[::2]]
        oldest = min(filter(None, (oldest, await _oldest_of(store, ids))), default=None)
        full = (pair for pair in zip(shards, found, strict=True) if len(pair[1]) == 2 * (end - first))
        last = {name: float(values[-1]) for name, values in full}
        shards = tuple(name for name, submitted_at in last.items() if oldest is None or submitted_at < oldest)
        if not shards:
            break
        first = end
    return oldest


async def _oldest_of(store: JobStore, ids: Sequence[str]) -> Timestamp | None:
    """Return since when the one of these jobs that waits longest does; None if none of them is due."""
    now = store.clock.now()
    waiting = [job for record in await store.read(ids) if record and (job := _parse(record.snapshot)) is not None]
    return min((job.since for job in waiting if job.due_at is None or job.due_at <= now), default=None)


def _parse(snapshot: bytes) -> _WaitingJob | None:
    """Return a job that waits for an attempt, None for another one or a damaged snapshot."""
    try:
        job = decode(snapshot, _WaitingJob)
    except DecodeError:
        return None
    return job if job.status in ("queued", "retrying") else None
