"""Walks sorted sets from the newest entry to the oldest, merged as if they were one."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from redis.exceptions import RedisError

from ...redis_client.topology import RedisClient
from .keys import index_key
from .lookup import typed_reply
from .query import Position

MAX_SETS_PER_READ = 256  # after segments without entries

Segment = Sequence[str]  # the names of sets that are merged; all their entries are newer than those of the next segment


class FoundEntry(NamedTuple):
    """An entry, and the name of the set that it was found in."""

    position: Position
    name: str


class SortedWalk:
    """Reads the entries below a position, segment by segment.

    `on_wrong_type` is called with the name of a set whose key has another type.
    """

    def __init__(
        self,
        redis: RedisClient,
        segments: AsyncIterator[Segment],
        position: Position,
        *,
        lowest: float,
        on_wrong_type: Callable[[str], None],
    ) -> None:
        self._redis = redis
        self._segments = segments
        self._ahead: deque[Segment] = deque()
        self._position = position
        self._lowest = lowest
        self._on_wrong_type = on_wrong_type

    async def read(self, count: int) -> list[FoundEntry]:
        """Return the next entries, about as many as `count`; none at the end.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        width = 1  # how many sets to read in one round trip, at least a segment: more, as long as they are empty
        while segments := await self._look_ahead(width):
            found, is_cut = await self._read(segments, count)
            if found:
                self._position = found[-1].position
                return found
            if is_cut:  # that many entries have the score of the position
                count *= 2
            width = min(2 * sum(map(len, segments)), MAX_SETS_PER_READ)
        return []

    async def _look_ahead(self, width: int) -> list[Segment]:
        """Return the next segments, the first ones that together have `width` sets."""
        chosen: list[Segment] = []
        while sum(map(len, chosen)) < width:
            if len(chosen) == len(self._ahead):
                if (segment := await anext(self._segments, None)) is None:
                    break
                self._ahead.append(segment)
            chosen.append(self._ahead[len(chosen)])
        return chosen

    async def _read(self, segments: list[Segment], count: int) -> tuple[list[FoundEntry], bool]:
        """Read segments, up to the first one with more entries than `count`; return whether there is such a segment."""
        commands = []
        for name in itertools.chain.from_iterable(segments):
            limits = (self._position.score, self._lowest, "WITHSCORES", "LIMIT", 0, count)
            commands.append((index_key(name), ("ZREVRANGEBYSCORE", index_key(name), *limits)))
        replies = iter(await self._redis.execute(commands))
        found: list[FoundEntry] = []
        for segment in segments:
            entries: list[FoundEntry] = []
            cut: Position | None = None  # some set has entries below it that have not been read
            for name in segment:
                read = self._parse(name, next(replies))
                entries += read
                if len(read) == count:
                    cut = read[-1].position if cut is None else max(cut, read[-1].position)
            below = (entry for entry in entries if entry.position < self._position)
            found += sorted((entry for entry in below if cut is None or entry.position >= cut), reverse=True)
            if cut is not None:
                return found, True
            self._ahead.popleft()
        return found, False

    def _parse(self, name: str, reply: list[bytes] | RedisError) -> list[FoundEntry]:
        values = typed_reply(reply)
        if values is None:
            self._on_wrong_type(name)
            return []
        pairs = zip(values[::2], values[1::2], strict=True)
        return [FoundEntry(Position(float(score), member), name) for member, score in pairs]


async def fixed_segments(*segments: Segment) -> AsyncIterator[Segment]:
    """Yield segments."""
    for segment in segments:
        yield segment
