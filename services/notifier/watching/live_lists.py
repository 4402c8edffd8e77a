"""Live lists: reads the newest jobs of each distinct query again when they may have changed, for all its watchers.

The lists of an owner or a tag have a channel that announces changes. Other lists are read at regular intervals.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter, defaultdict
from operator import attrgetter
from typing import Protocol

import structlog
from redis.exceptions import RedisError

from headway.labels import JobFilter

from .. import metrics
from ..isolation import Recipient, isolated
from ..records.index import keys
from ..records.index.query import JobQuery
from ..records.index.reader import IndexReader
from ..redis_client.pubsub import PubSub

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_POLLED = 1_000  # distinct queries whose changes are not announced
MAX_QUERIES_PER_FILTER = 100  # distinct ones for tokens with the same filter, so that their bearers do not use up all
ANNOUNCED_INTERVAL_S = 30.0  # between two reads of a list whose changes are announced, if none is
POLL_INTERVAL_S = 1.0  # between two reads of another list
DEBOUNCE_S = 0.25  # after an announcement, to read once for several of them
RETRY_DELAY_S = 1.0
TICK_S = 0.1
MAX_READS_PER_TICK = 10  # of the lists of each turn, which thus delay each other little
REST_FACTOR = 3  # after its reads the loop rests three times as long, so that many lists do not occupy the replica
WATCHERS_PER_TURN = 100  # who are notified before other tasks have their turn


class TooManyLists(Exception):
    """A connection shows, or this replica reads, as many lists as it may."""


class ListWatcher(Recipient, Protocol):
    """A client that shows a list."""

    def on_list_changed(self, live_list: LiveList) -> None:
        """Called when the list has other jobs than before, or `complete` has changed."""


class LiveList:
    """The newest jobs of a query.

    Attributes:
        query: the query.
        job_ids: the ids of its newest jobs, the newest first; None before the first read.
        next: the cursor of the jobs that follow them; None if no job follows.
        complete: whether the index has all jobs.
        allowed: the filter of the token that opened it.
        watchers: who shows the list.
        due_at: when it is read again, in monotonic seconds.
        turn: with which lists it is read: 0 after an announcement, 1 in case one was lost, 2 if it is polled.
    """

    __slots__ = (
        "allowed",
        "channel",
        "complete",
        "due_at",
        "first_read",
        "job_ids",
        "next",
        "query",
        "turn",
        "watchers",
    )

    def __init__(self, query: JobQuery, allowed: JobFilter) -> None:
        self.query = query
        self.allowed = allowed
        self.channel = _channel_of(query)
        self.job_ids: tuple[str, ...] | None = None
        self.next: str | None = None
        self.complete = False
        self.watchers: set[ListWatcher] = set()
        self.first_read = asyncio.Lock()
        self.due_at = 0.0
        self.turn = 0
        self.schedule()

    def schedule(self) -> None:
        """Schedule the next read after the usual interval."""
        self.turn, interval_s = (2, POLL_INTERVAL_S) if self.channel is None else (1, ANNOUNCED_INTERVAL_S)
        self.due_at = time.monotonic() + interval_s

    def hasten(self, delay_s: float) -> None:
        """Schedule the next read no later than after a delay."""
        self.due_at = min(self.due_at, time.monotonic() + delay_s)

    def announce(self) -> None:
        """Schedule a read for an announced change, unless there is one."""
        if self.turn != 0:
            self.turn, self.due_at = 0, time.monotonic() + DEBOUNCE_S


def _channel_of(query: JobQuery) -> str | None:
    """Return the channel that announces the changes of a query's jobs; None if nothing announces them."""
    if query.filter.owner is not None:
        return keys.list_channel(keys.owner_name(query.filter.owner))
    tags = sorted(query.all_tags)
    return keys.list_channel(keys.tag_name(tags[0])) if tags else None


class LiveLists:
    """The live lists of this replica.

    Args:
        index: reads the lists.
        pubsub: the channels that announce changes.
        max_announced: how many distinct queries with such a channel it reads.
    """

    def __init__(self, index: IndexReader, pubsub: PubSub, max_announced: int) -> None:
        self._index = index
        self._pubsub = pubsub
        self._max_announced = max_announced
        self._lists: dict[JobQuery, LiveList] = {}
        self._polled: set[LiveList] = set()
        self._per_filter: Counter[JobFilter] = Counter()
        self._by_channel: defaultdict[str, set[LiveList]] = defaultdict(set)
        self._has_lists = asyncio.Event()
        metrics.LIVE_LIST_QUERIES.labels("announced").set_function(lambda: len(self._lists) - len(self._polled))
        metrics.LIVE_LIST_QUERIES.labels("polled").set_function(lambda: len(self._polled))

    async def open(self, query: JobQuery, watcher: ListWatcher, allowed: JobFilter) -> LiveList:
        """Add a watcher to the list of a query, and return the list.

        Args:
            query: the query.
            watcher: who shows the list.
            allowed: the filter of the watcher's token.

        Raises:
            TooManyLists: this replica reads as many distinct queries as it may, in all or for the filter of the token.
            RedisError, OSError: Redis is unavailable.
        """
        live_list = self._lists.get(query) or self._create(query, allowed)
        live_list.watchers.add(watcher)
        try:
            async with live_list.first_read:
                if live_list.job_ids is None:
                    await self._read(live_list)
        except BaseException:
            self.close(query, watcher)
            raise
        return live_list

    def _create(self, query: JobQuery, allowed: JobFilter) -> LiveList:
        live_list = LiveList(query, allowed)
        polled = len(self._polled)
        if live_list.channel is None:
            is_full = polled >= MAX_POLLED
        else:
            is_full = len(self._lists) - polled >= self._max_announced
        if is_full:
            raise TooManyLists("This replica reads too many different lists; try again later.")
        if self._per_filter[allowed] >= MAX_QUERIES_PER_FILTER:
            message = f"Tokens with this filter have {MAX_QUERIES_PER_FILTER} different lists open; try again later."
            raise TooManyLists(message)
        self._lists[query] = live_list
        self._per_filter[allowed] += 1
        if live_list.channel is None:
            self._polled.add(live_list)
        else:
            self._by_channel[live_list.channel].add(live_list)
            self._pubsub.subscribe(live_list.channel, self)
        self._has_lists.set()
        return live_list

    def close(self, query: JobQuery, watcher: ListWatcher) -> None:
        """Remove a watcher from the list of a query. A list without watchers ends."""
        live_list = self._lists.get(query)
        if live_list is None or watcher not in live_list.watchers:
            return
        live_list.watchers.discard(watcher)
        if not live_list.watchers:
            self._remove(live_list)

    def _remove(self, live_list: LiveList) -> None:
        del self._lists[live_list.query]
        if not self._lists:
            self._has_lists.clear()
        self._per_filter[live_list.allowed] -= 1
        if not self._per_filter[live_list.allowed]:
            del self._per_filter[live_list.allowed]
        self._polled.discard(live_list)
        if (channel := live_list.channel) is not None:
            self._by_channel[channel].discard(live_list)
            if not self._by_channel[channel]:
                del self._by_channel[channel]
                self._pubsub.unsubscribe(channel)

    def on_publication(self, channel: str, data: bytes) -> None:  # noqa: ARG002
        """Called when the jobs of an owner or a tag have changed."""
        for live_list in self._by_channel.get(channel, ()):
            live_list.announce()

    def on_subscribed(self, channel: str) -> None:
        """Called when the subscription to a channel is confirmed. Earlier changes may have been missed."""
        for live_list in self._by_channel.get(channel, ()):
            live_list.hasten(0.0)

    async def run(self) -> None:
        """Read the lists that are due, until cancelled."""
        while True:
            await self._has_lists.wait()
            await asyncio.sleep(TICK_S)
            started_at = time.monotonic()
            if due := self._due(started_at):
                errors = await asyncio.gather(*map(self._refresh, due))
                if failures := [type(error).__name__ for error in errors if error is not None]:
                    log.warning("lists_read_failed", error=failures[0], count=len(failures))
                await asyncio.sleep(REST_FACTOR * (time.monotonic() - started_at))

    def _due(self, now: float) -> list[LiveList]:
        """Return the lists that are read in this tick: of each turn those that have been due for longest."""
        turns: tuple[list[LiveList], ...] = ([], [], [])
        for live_list in self._lists.values():
            if live_list.due_at <= now:
                turns[live_list.turn].append(live_list)
        return [each for due in turns for each in heapq.nsmallest(MAX_READS_PER_TICK, due, key=attrgetter("due_at"))]

    async def _refresh(self, live_list: LiveList) -> RedisError | OSError | None:
        """Read a list again, and notify its watchers if it has changed. Return the error if the read has failed."""
        before = live_list.job_ids, live_list.complete
        try:
            await self._read(live_list)
        except (RedisError, OSError) as error:
            live_list.hasten(RETRY_DELAY_S)
            return error
        if (live_list.job_ids, live_list.complete) == before:
            return None
        for number, watcher in enumerate(list(live_list.watchers), 1):
            if watcher in live_list.watchers:  # it may have left meanwhile
                with isolated(watcher):
                    watcher.on_list_changed(live_list)
            if number % WATCHERS_PER_TURN == 0:
                await asyncio.sleep(0)
        return None

    async def _read(self, live_list: LiveList) -> None:
        live_list.schedule()  # before the read: an announcement during the read leads to another one
        page = await self._index.page(live_list.query)
        metrics.LIVE_LISTS_READ.inc()
        live_list.job_ids = tuple(job.id for job in page.jobs)
        live_list.next, live_list.complete = page.next, page.complete
