"""Live lists are read once for all their watchers, when they may have changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from headway.labels import JobFilter
from services.notifier.records.index.query import JobQuery
from services.notifier.records.index.reader import Page
from services.notifier.watching import live_lists as module
from services.notifier.watching.live_lists import (
    ANNOUNCED_INTERVAL_S,
    DEBOUNCE_S,
    MAX_POLLED,
    MAX_QUERIES_PER_FILTER,
    MAX_READS_PER_TICK,
    POLL_INTERVAL_S,
    ListWatcher,
    LiveList,
    LiveLists,
    TooManyLists,
)
from tests.unit.services.notifier.transports.listed_jobs import Jobs
from tests.unit.services.notifier.transports.notifier_parts import FakePubSub

ANNAS = JobQuery(filter=JobFilter(owner="anna"))
ANNAS_FAILURES = JobQuery(filter=JobFilter(owner="anna"), statuses=frozenset({"failed"}))
TAGGED = JobQuery(tags=("b", "a"))
ALL = JobQuery()
CHANNEL = "headway:list:{o:anna}"
MAX_ANNOUNCED = 2_000


class Watcher:
    """A watcher that records the lists that it gets."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.lists: list[tuple[str, ...] | None] = []
        self.failures: list[Exception] = []
        self._then = then

    def on_list_changed(self, live_list: LiveList) -> None:
        """Record the jobs of the list."""
        self.lists.append(live_list.job_ids)
        self._then()

    def on_failure(self, error: Exception) -> None:
        """Record an error."""
        self.failures.append(error)


class Running:
    """Live lists on a clock that only the test advances."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.jobs, self.pubsub = Jobs(), FakePubSub()
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.lists = LiveLists(cast(Any, self.jobs), cast(Any, self.pubsub), MAX_ANNOUNCED)

    async def open(self, query: JobQuery, watcher: ListWatcher, allowed: JobFilter | None = None) -> LiveList:
        """Open a list, by default with a token for the filter of the query."""
        return await self.lists.open(query, watcher, query.filter if allowed is None else allowed)

    async def advance(self, seconds: float) -> int:
        """Advance the clock, run the loop, and return how many lists were read."""
        before = len(self.jobs.queries)
        self.now += seconds
        task = asyncio.create_task(self.lists.run())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        return len(self.jobs.queries) - before


SLEEP = asyncio.sleep


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Running:
    """Return live lists whose loop does not wait."""

    def sleep(_seconds: float) -> Awaitable[None]:
        return SLEEP(0)

    monkeypatch.setattr(module, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    return Running(monkeypatch)


async def test_a_query_is_read_once_for_all_watchers(running: Running) -> None:
    """Those that join at the same time, and later ones, get the same list; it ends with the last one."""
    first, second, late = Watcher(), Watcher(), Watcher()
    one, two = await asyncio.gather(running.open(ANNAS, first), running.open(ANNAS, second))
    assert one is two is await running.open(ANNAS, late)
    assert running.jobs.queries == [ANNAS]
    running.jobs.put(1)
    running.now += ANNOUNCED_INTERVAL_S
    assert await running.advance(0) == 1
    assert first.lists == second.lists == late.lists == [one.job_ids]
    for watcher in (first, second, second):
        running.lists.close(ANNAS, watcher)
    assert running.pubsub.open == {CHANNEL: 1}
    running.lists.close(ANNAS, late)
    assert not running.pubsub.open
    assert await running.advance(ANNOUNCED_INTERVAL_S) == 0
    assert await running.open(ANNAS, first) is not one


async def test_announced_lists_are_read_when_something_changes(running: Running) -> None:
    """Several announcements lead to one read; a confirmed subscription leads to one at once. Others have a poll."""
    for query in (ANNAS, ANNAS_FAILURES, TAGGED, ALL):
        await running.open(query, Watcher())
    assert set(running.pubsub.open) == {CHANNEL, "headway:list:{t:a}"}
    assert await running.advance(POLL_INTERVAL_S) == 1
    for _ in range(3):
        running.lists.on_publication(CHANNEL, b"")
    assert await running.advance(DEBOUNCE_S / 2) == 0
    assert await running.advance(DEBOUNCE_S / 2) == 2
    assert await running.advance(0) == 0
    running.lists.on_subscribed(CHANNEL)
    assert await running.advance(0) == 2
    running.lists.on_publication("headway:list:{o:bert}", b"")
    assert await running.advance(POLL_INTERVAL_S) == 1
    assert await running.advance(ANNOUNCED_INTERVAL_S) == 4


async def test_many_polled_lists_do_not_delay_announced_ones(running: Running) -> None:
    """Nor the other way round: in each tick as many of both are read, those first that have been due for longest."""
    polled = [JobQuery(filter=JobFilter(kind=f"k{number}")) for number in range(3 * MAX_READS_PER_TICK)]
    for query in (*polled, ANNAS):
        await running.open(query, Watcher())
    running.jobs.queries.clear()
    running.now += POLL_INTERVAL_S
    running.lists.on_publication(CHANNEL, b"")
    await running.advance(DEBOUNCE_S)
    assert running.jobs.queries == [ANNAS, *polled]


async def test_lists_that_have_changed_are_read_before_those_that_may_have(running: Running) -> None:
    """Many lists that are read in case an announcement was lost do not delay one with an announcement."""
    quiet = [owned_by(number) for number in range(3 * MAX_READS_PER_TICK)]
    for query in (*quiet, ANNAS):
        await running.open(query, Watcher())
    running.jobs.queries.clear()
    running.now += ANNOUNCED_INTERVAL_S
    running.lists.on_publication(CHANNEL, b"")
    await running.advance(DEBOUNCE_S)
    assert running.jobs.queries == [ANNAS, *quiet]


async def test_only_a_changed_list_is_sent(running: Running) -> None:
    """A watcher that leaves while others are notified is not notified any more."""
    watchers: list[Watcher] = []

    def close_others() -> None:
        for watcher in watchers:
            if not watcher.lists:
                running.lists.close(ALL, watcher)

    watchers += [Watcher(close_others) for _ in range(3)]
    for watcher in watchers:
        await running.open(ALL, watcher)
    assert await running.advance(POLL_INTERVAL_S) == 1
    assert [watcher.lists for watcher in watchers] == [[]] * 3
    running.jobs.put(1)
    assert await running.advance(POLL_INTERVAL_S) == 1
    assert sum(len(watcher.lists) for watcher in watchers) == 1


async def test_a_broken_watcher_does_not_disturb_the_others(running: Running) -> None:
    """An error that it raises is its own."""

    def fail() -> None:
        raise RuntimeError("a bug")

    watchers = [Watcher(), Watcher(fail), Watcher()]
    for watcher in watchers:
        await running.open(ALL, watcher)
    running.jobs.put(1)
    assert await running.advance(POLL_INTERVAL_S) == 1
    assert [len(watcher.lists) for watcher in watchers] == [1, 1, 1]
    assert [len(watcher.failures) for watcher in watchers] == [0, 1, 0]


async def test_a_change_during_a_read_leads_to_another_read(running: Running) -> None:
    """Its result may have been read before the change."""
    watcher = Watcher()
    await running.open(ANNAS, watcher)
    page = running.jobs.page

    async def page_with_change(query: JobQuery) -> Page:
        result = await page(query)
        running.jobs.page = page  # type: ignore[method-assign]
        running.jobs.put(1)
        running.lists.on_publication(CHANNEL, b"")
        return result

    running.jobs.page = page_with_change  # type: ignore[method-assign]
    assert await running.advance(ANNOUNCED_INTERVAL_S) == 1
    assert watcher.lists == []
    assert await running.advance(DEBOUNCE_S) == 1
    assert len(watcher.lists) == 1


async def test_a_failed_read_is_repeated(running: Running) -> None:
    """The watchers keep their list meanwhile. A first read that fails ends the list."""
    watcher = Watcher()
    await running.open(ALL, watcher)
    running.jobs.put(1)
    running.jobs.failure = RedisConnectionError()
    assert await running.advance(POLL_INTERVAL_S) == 0
    with pytest.raises(RedisConnectionError):
        await running.open(ANNAS, watcher)
    assert not running.pubsub.open
    running.jobs.failure = None
    assert await running.advance(POLL_INTERVAL_S) == 1
    assert len(watcher.lists) == 1


async def count_refusals(running: Running, queries: Iterable[JobQuery], allowed: JobFilter | None = None) -> int:
    """Open lists, and return how many are refused."""
    refused = 0
    for query in queries:
        try:
            await running.open(query, Watcher(), allowed)
        except TooManyLists:
            refused += 1
    return refused


def owned_by(number: int) -> JobQuery:
    """Return the query for the jobs of one of many owners."""
    return JobQuery(filter=JobFilter(owner=f"user:{number}"))


async def test_the_number_of_queries_is_limited(running: Running) -> None:
    """Queries that are polled and those with announcements do not use up each other's limit, nor do equal ones."""
    kinds = [JobQuery(filter=JobFilter(kind=f"k{number}")) for number in range(MAX_POLLED + 10)]
    assert await count_refusals(running, kinds) == 10
    assert await count_refusals(running, map(owned_by, range(MAX_ANNOUNCED + 20))) == 20
    assert await count_refusals(running, [kinds[0]] * 10 + [owned_by(0)] * 10) == 0
    assert len(running.jobs.queries) == MAX_POLLED + MAX_ANNOUNCED
    for query, other in ((kinds[0], kinds[-1]), (owned_by(0), owned_by(MAX_ANNOUNCED))):
        for watcher in list(running.lists._lists[query].watchers):
            running.lists.close(query, watcher)
        assert await count_refusals(running, [other, query]) == 1


async def test_the_queries_of_tokens_with_one_filter_are_limited(running: Running) -> None:
    """Others can still open lists. A list that ends makes room."""
    annas = JobFilter(owner="anna")
    queries = [JobQuery(filter=annas, limit=1 + number) for number in range(MAX_QUERIES_PER_FILTER + 5)]
    assert await count_refusals(running, queries, annas) == 5
    assert await count_refusals(running, queries[-1:], JobFilter()) == 0
    (watcher,) = running.lists._lists[queries[0]].watchers
    running.lists.close(queries[0], watcher)
    assert await count_refusals(running, queries[-3:-1], annas) == 1
    for query, live_list in list(running.lists._lists.items()):
        for watcher in list(live_list.watchers):
            running.lists.close(query, watcher)
    assert not running.lists._per_filter
