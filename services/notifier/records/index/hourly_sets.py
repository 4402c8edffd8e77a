"""The sets of a directory: those of each hour are merged, and the hours follow each other."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Self

from headway.contracts import JobStatus

from ...redis_client.topology import RedisClient
from .keys import ENDED_HOURS, KIND_HOURS, ended_prefix, hour_of, index_key, kind_prefix
from .lookup import typed_reply
from .walk import Segment

MAX_SETS = 1_000  # of one hour; the others are left out
NAMES_PER_READ = 500


class HourlySets:
    """The sets of a directory that have entries of a period.

    Args:
        redis: the client.
        directory: the name of the directory.
        includes: returns whether to read the set with a name.
        on_wrong_type: called with the name of the directory if its key has another type.

    Attributes:
        is_cut: whether an hour has more than MAX_SETS sets, so that some of them were left out.
    """

    def __init__(
        self,
        redis: RedisClient,
        directory: str,
        includes: Callable[[str], bool],
        on_wrong_type: Callable[[str], None],
    ) -> None:
        self._redis = redis
        self._directory = directory
        self._includes = includes
        self._on_wrong_type = on_wrong_type
        self.is_cut = False

    @classmethod
    def of_submitted_jobs(cls, redis: RedisClient, kind: str | None, on_wrong_type: Callable[[str], None]) -> Self:
        """Return the sets by submission, of one kind or of all."""
        prefix = None if kind is None else kind_prefix(kind)
        return cls(redis, KIND_HOURS, lambda name: prefix in (None, name.rpartition(":")[0]), on_wrong_type)

    @classmethod
    def of_ended_jobs(
        cls,
        redis: RedisClient,
        statuses: Iterable[JobStatus],
        kind: str | None,
        on_wrong_type: Callable[[str], None],
    ) -> Self:
        """Return the sets by ending, of some statuses, and of one kind or of all."""
        prefixes = tuple(map(ended_prefix, statuses))
        names = {f"{prefix}{kind}" for prefix in prefixes}

        def includes(name: str) -> bool:
            return name.startswith(prefixes) if kind is None else name.rpartition(":")[0] in names

        return cls(redis, ENDED_HOURS, includes, on_wrong_type)

    async def segments(self, highest: float, lowest: float) -> AsyncGenerator[Segment, None]:
        """Yield the names of the sets of each hour, the newest first.

        Args:
            highest: the latest time in milliseconds.
            lowest: the earliest time.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        by_hour: dict[bytes, list[str]] = {}
        for offset in itertools.count(0, NAMES_PER_READ):
            entries = await self._read(_hour(highest), _hour(lowest), offset)
            for name, hour in entries:
                if self._includes(name):
                    by_hour.setdefault(hour, []).append(name)
            is_last = len(entries) < NAMES_PER_READ
            for hour in list(by_hour)[: None if is_last else -1]:  # more sets of the last hour may follow
                names = by_hour.pop(hour)
                self.is_cut |= len(names) > MAX_SETS
                yield names[:MAX_SETS]
            if is_last:
                return

    async def _read(self, highest: float, lowest: float, offset: int) -> list[tuple[str, bytes]]:
        """Return names and hours."""
        key = index_key(self._directory)
        limits = (highest, lowest, "WITHSCORES", "LIMIT", offset, NAMES_PER_READ)
        (reply,) = await self._redis.execute([(key, ("ZREVRANGEBYSCORE", key, *limits))])
        entries: list[bytes] | None = typed_reply(reply)
        if entries is None:
            self._on_wrong_type(self._directory)
            return []
        return [(name.decode(errors="replace"), hour) for name, hour in zip(entries[::2], entries[1::2], strict=True)]


def _hour(time: float) -> float:
    return time if abs(time) == float("inf") else hour_of(time)
