"""The workers that have posted themselves in the last seconds."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from headway.contracts import NULL, Json, Timestamp, decode, encode
from headway.details import KindInfo, WorkerInfo

from ..records.clock import RedisClock
from ..records.index.keys import index_key
from ..records.index.lookup import typed_reply
from ..records.shared_read import SharedRead
from ..redis_client.topology import RedisClient

TTL_MS = 15_000  # workers post themselves every 5 s
IDS_KEY = index_key("workers")  # a sorted set: the ids of workers, and when each was seen last
MAX_WORKERS = 10_000  # that are kept, those that were seen last


class SeenWorker(Struct, frozen=True):
    """A worker, and when it was seen last."""

    info: WorkerInfo
    seen_at: Timestamp


class WorkerStore:
    """Keeps each worker under a key of its own, which expires."""

    def __init__(self, redis: RedisClient, clock: RedisClock) -> None:
        self._redis = redis
        self._clock = clock
        self._workers = SharedRead(self._read, 0)  # clients that ask at the same time share a read

    async def put(self, info: WorkerInfo) -> None:
        """Keep a worker.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        key, now = _worker_key(info.id), int(self._clock.now())
        fields = ("info", encode(_without_schemas(info)), "kinds", encode(info.kinds), "seen_ms", now)
        replies = await self._redis.execute(
            [
                (key, ("HSET", key, *fields)),
                (key, ("PEXPIRE", key, TTL_MS)),
                (IDS_KEY, ("ZADD", IDS_KEY, now, info.id)),
                (IDS_KEY, ("ZREMRANGEBYRANK", IDS_KEY, 0, -MAX_WORKERS - 1)),
                (IDS_KEY, ("PEXPIRE", IDS_KEY, TTL_MS)),
            ]
        )
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply

    async def queue_depth(self) -> int | None:
        """Return about how many messages the queues have, as the workers of each have posted last; None if unknown.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        depths = {
            worker.info.queue: worker.info.queue_depth
            for worker in sorted(await self.read(), key=lambda worker: worker.seen_at)
            if worker.info.queue_depth is not None
        }
        return sum(depths.values()) if depths else None

    async def read_schemas(self, workers: Iterable[SeenWorker]) -> dict[str, Json]:
        """Return the JSON Schemas of the payloads of the workers' kinds that have one, each as one worker has it.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        worker_ids = {kind.kind: worker.info.id for worker in workers for kind in worker.info.kinds}
        keys = [_worker_key(worker_id) for worker_id in sorted(set(worker_ids.values()))]
        replies = await self._redis.execute([(key, ("HMGET", key, "kinds")) for key in keys])
        kinds = [kind for reply in replies for kind in _kinds((typed_reply(reply) or (None,))[0])]
        return {kind.kind: kind.schema for kind in kinds if kind.schema != NULL}

    async def read(self) -> list[SeenWorker]:
        """Return the workers without the schemas of their kinds, sorted by their ids.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        return await self._workers.get()

    async def _read(self) -> list[SeenWorker]:
        since = int(self._clock.now()) - TTL_MS
        command = ("ZREVRANGEBYSCORE", IDS_KEY, "+inf", since, "LIMIT", 0, MAX_WORKERS)
        (reply,) = await self._redis.execute([(IDS_KEY, command)])
        keys = [_worker_key(member.decode(errors="replace")) for member in typed_reply(reply) or ()]
        replies = await self._redis.execute([(key, ("HMGET", key, "info", "seen_ms")) for key in keys])
        workers = [_seen_worker(typed_reply(reply) or (None, None)) for reply in replies]
        return sorted(filter(None, workers), key=lambda worker: worker.info.id)


def _worker_key(worker_id: str) -> str:
    return f"headway:workers:{{{worker_id}}}"


def _without_schemas(info: WorkerInfo) -> WorkerInfo:
    return replace(info, kinds=tuple(KindInfo(kind.kind) for kind in info.kinds))


def _kinds(text: bytes | None) -> list[KindInfo]:
    try:
        return decode(text or b"[]", list[KindInfo])
    except msgspec.DecodeError:
        return []


def _seen_worker(values: Iterable[bytes | None]) -> SeenWorker | None:
    """Return a worker, or None if its key has expired, or another program has changed it."""
    info, seen_ms = values
    try:
        return SeenWorker(decode(info or b"", WorkerInfo), Timestamp(seen_ms or b""))
    except (msgspec.DecodeError, ValueError):
        return None
