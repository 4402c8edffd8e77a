"""Iteration over items with progress: `JobContext.track`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")

YIELD_INTERVAL_S = 0.01


class Track(Generic[Item]):
    """An iterable that reports how many of its items are done."""

    def __init__(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        total: float | None,
        report: Callable[[int, float | None], None],
    ) -> None:
        self._items = items
        self._total = total
        self._report = report

    def __iter__(self) -> Iterator[Item]:
        if not isinstance(self._items, Iterable):
            raise TypeError("these items are asynchronous: iterate with `async for`")
        total = self._find_total()
        self._report(0, total)
        for done, item in enumerate(self._items, 1):
            yield item
            self._report(done, total)

    async def __aiter__(self) -> AsyncIterator[Item]:
        done, total = 0, self._find_total()
        self._report(0, total)
        yielded_at = time.monotonic()
        async for item in _iterate(self._items):
            yield item
            done += 1
            self._report(done, total)
            if time.monotonic() - yielded_at > YIELD_INTERVAL_S:
                await asyncio.sleep(0)  # lets the event loop send reports although the handler never waits
                yielded_at = time.monotonic()

    def _find_total(self) -> float | None:
        """Return the given total or, without one, the number of items if they have a length."""
        if self._total is None and isinstance(self._items, Sized):
            with suppress(Exception):  # a `__len__` that cannot know it, such as that of an iterable data set, raises
                return len(self._items)
        return self._total


async def _iterate(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
