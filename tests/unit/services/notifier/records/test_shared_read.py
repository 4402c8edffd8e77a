"""A read whose result clients share."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from services.notifier.records.shared_read import SharedRead


async def test_concurrent_callers_share_a_read() -> None:
    """The value is kept until it is too old, also if a caller is cancelled."""
    numbers, may_read = count(), asyncio.Event()

    async def read() -> int:
        await may_read.wait()
        return next(numbers)

    kept, stale = SharedRead(read, 3600), SharedRead(read, -1)
    first, second = asyncio.create_task(kept.get()), asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    first.cancel()
    may_read.set()
    assert [await second, await kept.get()] == [0, 0]
    assert [await stale.get(), await stale.get()] == [1, 2]


async def test_failed_read_is_repeated() -> None:
    """Its callers get the error, later ones a new read."""
    results: list[int | Exception] = [OSError("no connection"), 1]

    async def read() -> int:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    shared = SharedRead(read, 3600)
    with pytest.raises(OSError, match="no connection"):
        await shared.get()
    assert await shared.get() == 1
