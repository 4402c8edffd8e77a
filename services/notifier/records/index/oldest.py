"""Reads since when jobs wait. A job that is not due, such as one with a delay, does not count."""

from __future__ import annotations

from msgspec import DecodeError, Struct

from headway.contracts import JobStatus, Timestamp, decode

from ...redis_client.topology import RedisClient
from ..store import JobStore
from . import keys
from .lookup import typed_reply

CANDIDATES = 4  # of each shard; if none of them is due, the answer is unknown


class _WaitingJob(Struct, frozen=True):
    """The fields of a snapshot that say whether a job waits for a worker."""

    status: JobStatus
    submitted_at: Timestamp
    redriven_at: Timestamp | None = None
    due_at: Timestamp | None = None


async def read_oldest(redis: RedisClient, store: JobStore) -> Timestamp | None:
    """Return since when the job that waits longest does, its submission or its last redrive; None if no due job waits.

    Raises:
        RedisError, OSError: Redis is unavailable.
    """
    sets = map(keys.index_key, keys.WAITING)
    replies = await redis.execute([(key, ("ZRANGE", key, 0, CANDIDATES - 1)) for key in sets])
    ids = [keys.job_id_of(member) for reply in replies for member in typed_reply(reply) or ()]
    now = store.clock.now()
    waiting = [job for record in await store.read(ids) if record and (job := _parse(record.snapshot)) is not None]
    due = (job.redriven_at or job.submitted_at for job in waiting if job.due_at is None or job.due_at <= now)
    return min(due, default=None)


def _parse(snapshot: bytes) -> _WaitingJob | None:
    """Return a job that has not started or failed an attempt, None for another one or a damaged snapshot."""
    try:
        job = decode(snapshot, _WaitingJob)
    except DecodeError:
        return None
    return job if job.status in ("queued", "retrying") else None
