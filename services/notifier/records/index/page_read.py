"""Reads the entries of one page, and checks them against the records."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import NamedTuple

from headway.contracts import ENDED

from ...redis_client.topology import RedisClient
from . import keys
from .changes import MAX_LISTED
from .entries import Entry, IndexedRecord, entries_of
from .hourly_sets import HourlySets
from .lookup import read_records, typed_reply
from .query import TOP, JobQuery, Position
from .walk import FoundEntry, Segment, SortedWalk, fixed_segments
from .writer import IndexWriter

MAX_CANDIDATES = 2_000  # whose records one page reads
MIN_CANDIDATES_PER_READ, MAX_CANDIDATES_PER_READ = 50, 500


class Candidate(NamedTuple):
    """A job that the query selects, with its position in the list."""

    position: Position
    record: IndexedRecord


class PageRead:
    """One page of a list."""

    def __init__(self, redis: RedisClient, writer: IndexWriter, query: JobQuery) -> None:
        self._redis = redis
        self._writer = writer
        self._query = query
        self._start = query.start()
        self._lowest = -math.inf if query.since is None else float(query.since)
        self._wrong: set[tuple[str, bytes]] = set()  # entries that their records contradict
        self._foreign: set[str] = set()  # the names of keys of another type
        self._is_filled = False  # from a list, which lacks older jobs that may have ended since
        self._hourly_sets = self._new_hourly_sets()

    @property
    def is_cut(self) -> bool:
        """Whether jobs may be left out: an hour has too many kinds or jobs of others, or a key had another type."""
        return self._hourly_sets.is_cut or self._is_filled or bool(self._foreign)

    async def run(self) -> tuple[list[Candidate], Position | None]:
        """Return the matching jobs, and the position after which the next page begins, if there is one.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        shortest, size = await self._shortest_list()
        is_short = shortest is not None and size < MAX_LISTED
        if shortest is not None and is_short and self._query.by_end:
            page = await self._sorted_page(shortest, self._start, self._query.limit)
        else:
            async with aclosing(self._segments(shortest, is_short=is_short)) as segments:
                page = await self._walked_page(segments)
            if shortest is not None and self._query.by_end and not self._query.exhaustive:
                page = await self._filled_page(shortest, *page)
        await self._repair()
        return page

    async def _shortest_list(self) -> tuple[str | None, int]:
        """Return the shortest list of the query's owner and tags with its length; None without owner and tag."""
        owner = self._query.filter.owner
        names = [keys.tag_name(tag) for tag in sorted(self._query.all_tags)]
        names += [] if owner is None else [keys.owner_name(owner)]
        if not names:
            return None, 0
        sizes = await self._redis.execute([(keys.index_key(name), ("ZCARD", keys.index_key(name))) for name in names])
        for name, size in zip(names, sizes, strict=True):
            if typed_reply(size) is None:
                self._foreign.add(name)
        size, name = min((typed_reply(size) or 0, name) for name, size in zip(names, sizes, strict=True))
        return name, size

    async def _segments(self, list_name: str | None, *, is_short: bool) -> AsyncGenerator[Segment, None]:
        """Yield the sets that have the jobs of the query, as few as possible."""
        query = self._query
        if list_name is not None and is_short:
            yield [list_name]
        elif query.statuses and not query.statuses & ENDED:
            names = [*(keys.RUNNING if "running" in query.statuses else ())]
            if waiting := query.statuses - {"running"}:
                names += keys.RETRYING if waiting == {"retrying"} else keys.WAITING
            yield names
        else:
            if list_name is not None and not query.by_end:
                yield [list_name]  # has the newest; all kinds follow, because older jobs are no longer in the list
            async with aclosing(self._hourly_sets.segments(self._start.score, self._lowest)) as segments:
                async for segment in segments:
                    yield segment

    def _new_hourly_sets(self) -> HourlySets:
        statuses, kind = self._query.statuses, self._query.filter.kind
        if self._query.by_end:
            return HourlySets.of_ended_jobs(self._redis, statuses, kind, self._foreign.add)
        return HourlySets.of_submitted_jobs(self._redis, kind, self._foreign.add)

    def _walk(self, segments: AsyncIterator[Segment], position: Position, lowest: float) -> SortedWalk:
        return SortedWalk(self._redis, segments, position, lowest=lowest, on_wrong_type=self._foreign.add)

    async def _walked_page(self, segments: AsyncIterator[Segment]) -> tuple[list[Candidate], Position | None]:
        """Read entries that have the order of the list, until the page is full."""
        limit = self._query.limit
        walk = self._walk(segments, self._start, self._lowest)
        matched: dict[Position, Candidate] = {}
        checked, size = 0, max(limit + 1, MIN_CANDIDATES_PER_READ)
        while found := await walk.read(size):
            for start in range(0, len(found), size):
                group = found[start : start + min(size, MAX_CANDIDATES - checked)]
                for entry, candidate in await self._check(group):
                    if candidate.position == entry.position:  # not if the job has been redriven and has ended again
                        matched[entry.position] = candidate
                if len(matched) > limit:
                    page = list(matched.values())[:limit]
                    return page, page[-1].position
                checked += len(group)
                if checked >= MAX_CANDIDATES:
                    return list(matched.values()), group[-1].position
            size = min(2 * size, MAX_CANDIDATES_PER_READ)
        return list(matched.values()), None

    async def _filled_page(
        self, name: str, page: list[Candidate], end: Position | None
    ) -> tuple[list[Candidate], Position | None]:
        """Continue a page from a list if the jobs that have ended lately are so many that it is not full."""
        room = self._query.limit - len(page)
        if end is None or room == 0:
            return page, end
        listed, _ = await self._sorted_page(name, end, room)
        self._is_filled = bool(listed)
        return page + listed, listed[-1].position if listed else end

    async def _sorted_page(self, name: str, start: Position, limit: int) -> tuple[list[Candidate], Position | None]:
        """Read a whole list, which is sorted by submission, and sort it by the ends of the jobs."""
        walk = self._walk(fixed_segments([name]), TOP, -math.inf)
        candidates: list[Candidate] = []
        while found := await walk.read(MAX_CANDIDATES_PER_READ):
            candidates += [candidate for _, candidate in await self._check(found)]
        below = sorted((one for one in candidates if one.position < start), key=lambda one: one.position)
        page = below[: -limit - 1 : -1]
        return page, page[-1].position if len(below) > len(page) else None

    async def _check(self, found: Sequence[FoundEntry]) -> list[tuple[FoundEntry, Candidate]]:
        """Return the jobs that the query selects by their records, and note the entries that records contradict."""
        entries = []
        for entry in found:
            if len(entry.position.member) == keys.MEMBER_BYTES:
                entries.append(entry)
            else:
                self._wrong.add((entry.name, entry.position.member))
        ids = [keys.job_id_of(entry.position.member) for entry in entries]
        selected = []
        for entry, record in zip(entries, await read_records(self._redis, ids), strict=True):
            score, member = entry.position
            position = None
            if record is not None and self._query.matches(record):
                position = Position(float(self._query.time_of(record) or 0), member)
                selected.append((entry, Candidate(position, record)))
            if position != entry.position and Entry(entry.name, score) not in entries_of(record, member):
                self._wrong.add((entry.name, member))
        return selected

    async def _repair(self) -> None:
        """Remove wrong entries, and write the jobs again, so that a removal that was wrong itself has no effect."""
        for name in self._foreign:
            await self._writer.replace(name)
        if self._wrong:
            await self._writer.remove(self._wrong)
        for _name, member in self._wrong:
            if len(member) == keys.MEMBER_BYTES:
                self._writer.add(keys.job_id_of(member))
