"""Whether the index has all jobs.

One hash has the state: when the index was rebuilt, whether entries were lost since, and the leases of the replicas. A
replica writes entries with a delay, and removes its lease when it stops. If a lease ends, entries may have been lost.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import msgspec
import structlog
from msgspec import Struct
from redis.exceptions import RedisError

from headway.contracts import Natural, Timestamp, decode, encode

from ...redis_client.topology import RedisClient
from .keys import index_key
from .lookup import typed_reply

log: structlog.stdlib.BoundLogger = structlog.get_logger()

STATE_KEY = index_key("state")
STATE_TTL_MS = 2 * 86_400_000
LEASE_S = 10.0
RENEWAL_INTERVAL_S = 3.0
AGAIN_AFTER_S = 900.0  # after the first rebuild: until then, older replicas may have changed records
REBUILT_AT, AGAIN_AT, LOST, SWEEP = b"rebuilt_at", b"again_at", b"lost", b"sweep"
LEASE_PREFIX = b"replica:"


class IndexStatus(NamedTuple):
    """The state as of one reading.

    Attributes:
        complete: whether the index has all jobs.
        is_due_again: whether it has to be rebuilt because older replicas may have changed records meanwhile.
        crashed: the fields of the leases that have ended.
    """

    complete: bool
    is_due_again: bool
    crashed: list[bytes]

    @property
    def needs_rebuild(self) -> bool:
        """Whether to rebuild the index now."""
        return self.is_due_again or not self.complete


class SweepProgress(Struct, frozen=True):
    """Where the next sweep continues: the rank in the sets of unended jobs, and the cursor of each node's scan."""

    rank: Natural = 0
    cursors: dict[str, Natural] = {}


class IndexState:
    """The state of the index, and the lease of this replica.

    Args:
        redis: the client.
        replica: a name that this replica keeps when it restarts, and that no other replica has.
    """

    def __init__(self, redis: RedisClient, replica: str) -> None:
        self._redis = redis
        self._lease = LEASE_PREFIX + replica.encode()
        self._has_lost = False  # whether this replica has lost entries and has not written so yet

    def mark_incomplete(self) -> None:
        """Note that entries may have been lost. The index will be rebuilt."""
        self._has_lost = True

    async def run(self) -> None:
        """Renew the lease until cancelled."""
        await self._detect_crash()
        while True:
            try:
                await self.renew()
            except (RedisError, OSError) as error:  # after LEASE_S, another replica rebuilds the index
                log.debug("index_lease_not_renewed", error=type(error).__name__)
            await asyncio.sleep(RENEWAL_INTERVAL_S)

    async def _detect_crash(self) -> None:
        """Note that entries may have been lost if this replica has left a lease behind: then it has crashed."""
        try:
            if await self.release():
                self.mark_incomplete()
        except (RedisError, OSError):
            self.mark_incomplete()

    async def renew(self) -> None:
        """Renew the lease, and write whether entries were lost.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        has_lost, self._has_lost = self._has_lost, False
        lost = (LOST, 1) if has_lost else ()
        try:
            await self._execute("HSET", self._lease, int((await self._now()).after(LEASE_S)), *lost)
        except (RedisError, OSError):
            self._has_lost |= has_lost
            raise

    async def release(self) -> bool:
        """Remove the lease; return whether there was one.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        return bool(await self._execute("HDEL", self._lease))

    async def read(self) -> IndexStatus:
        """Read the state.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        reply, time = await self._redis.execute([(STATE_KEY, ("HGETALL", STATE_KEY)), (STATE_KEY, ("TIME",))])
        reply, now = typed_reply(reply) or [], Timestamp.at(int(time[0]))
        fields = dict(zip(reply[::2], reply[1::2], strict=True))
        crashed = [name for name, end in fields.items() if name.startswith(LEASE_PREFIX) and _time(end) < now]
        complete = REBUILT_AT in fields and LOST not in fields and not crashed and not self._has_lost
        return IndexStatus(complete, AGAIN_AT in fields and _time(fields[AGAIN_AT]) < now, crashed)

    async def begin_rebuild(self, status: IndexStatus) -> None:
        """Note that a rebuild begins. Entries that are lost from now on are the reason for another one.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        if not status.complete:
            await self._execute("HDEL", REBUILT_AT, LOST, *status.crashed)

    async def end_rebuild(self, status: IndexStatus) -> None:
        """Note that the index was rebuilt.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        now = await self._now()
        if status.complete:
            await self._execute("HDEL", AGAIN_AT)
        else:
            await self._execute("HSET", REBUILT_AT, int(now), AGAIN_AT, int(now.after(AGAIN_AFTER_S)))

    async def read_sweep(self) -> SweepProgress:
        """Return where the next sweep, on any replica, continues.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        (reply,) = await self._redis.execute([(STATE_KEY, ("HMGET", STATE_KEY, SWEEP))])
        try:
            return decode((typed_reply(reply) or [b"{}"])[0] or b"{}", SweepProgress)
        except msgspec.DecodeError:
            return SweepProgress()

    async def write_sweep(self, progress: SweepProgress) -> None:
        """Keep where the next sweep continues.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        await self._execute("HSET", SWEEP, encode(progress))

    async def _now(self) -> Timestamp:
        """Return the time by the clock of the node that has the state."""
        (reply,) = await self._redis.execute([(STATE_KEY, ("TIME",))])
        if isinstance(reply, RedisError):
            raise reply
        return Timestamp.at(int(reply[0]))

    async def _execute(self, command: str, *arguments: bytes | int) -> int:
        """Change the state, and return the reply. A key of another type is deleted first."""
        commands = ((command, STATE_KEY, *arguments), ("PEXPIRE", STATE_KEY, STATE_TTL_MS))
        replies = await self._redis.execute([(STATE_KEY, command) for command in commands])
        if typed_reply(replies[0]) is None:
            await self._redis.execute([(STATE_KEY, ("DEL", STATE_KEY))])
            replies = await self._redis.execute([(STATE_KEY, command) for command in commands])
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return int(replies[0])


def _time(text: bytes) -> Timestamp:
    """Return a time from a field; one that is not valid has passed."""
    return Timestamp(text) if text.isdigit() else Timestamp(0)
