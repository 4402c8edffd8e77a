"""Those who wait for a hint at one replica: one hint is for one of them, and for nobody who has left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from services.notifier import wakeups as module
from services.notifier.wakeups import WakeupQueue


def here() -> bool:
    """Be there."""
    return True


async def waiting(waiters: WakeupQueue, here: Callable[[], bool] = here) -> asyncio.Task[bool]:
    """Begin to wait; return once that is so."""
    count = len(waiters._waiters)
    task = asyncio.create_task(waiters.wait(60, here))
    while len(waiters._waiters) == count:
        await asyncio.sleep(0)
    return task


async def drained(waiters: WakeupQueue, *tasks: asyncio.Task[bool]) -> list[bool]:
    """End all waiting, and return who got a hint."""
    waiters.drain()
    return await asyncio.gather(*tasks)


async def test_one_hint_is_for_one_and_the_first_comes_first() -> None:
    """Whoever has waited longest is told, and the others go on waiting."""
    waiters = WakeupQueue()
    tasks = [await waiting(waiters) for _ in range(3)]
    waiters.wake_one()
    assert await tasks[0]
    assert not tasks[1].done()
    waiters.wake_one()
    assert await drained(waiters, *tasks) == [True, True, False]


async def test_who_has_left_eats_no_hint() -> None:
    """The next one who is there gets it."""
    waiters = WakeupQueue()
    tasks = [await waiting(waiters, lambda: False), await waiting(waiters, lambda: False), await waiting(waiters)]
    waiters.wake_one()
    assert await asyncio.gather(*tasks) == [False, False, True]


async def test_who_leaves_before_it_could_be_told_passes_the_hint_on() -> None:
    """Between the hint and its answer there is time enough to go."""
    waiters = WakeupQueue()
    present = [True]
    first, second = await waiting(waiters, lambda: present[0]), await waiting(waiters)
    waiters.wake_one()
    present[0] = False
    assert await second
    assert first.done()


async def test_who_is_cancelled_eats_no_hint() -> None:
    """A handler that was cancelled, but has not run since, is no longer there."""
    waiters = WakeupQueue()
    first, second = await waiting(waiters), await waiting(waiters)
    first.cancel()
    waiters.wake_one()
    assert await second
    assert first.cancelled()


async def test_a_hint_that_nobody_waits_for_is_kept_for_the_next_who_asks() -> None:
    """It closes the gap between two held requests, once."""
    waiters = WakeupQueue()
    waiters.wake_one()
    assert await waiters.wait(0, here)
    assert not await waiters.wait(0, here)


async def test_a_kept_hint_grows_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a moment it tells nothing any more."""
    monkeypatch.setattr(module, "UNCLAIMED_WAKEUP_TTL_S", 0)
    waiters = WakeupQueue()
    waiters.wake_one()
    assert not await waiters.wait(0, here)


async def test_nobody_is_kept_after_the_time_is_over() -> None:
    """Who has been answered waits no longer, and a hint is not spent on it."""
    waiters = WakeupQueue()
    assert not await waiters.wait(0.001, here)
    assert not waiters._waiters
    waiters.wake_one()
    assert await waiters.wait(0, here)


async def test_a_drain_answers_all() -> None:
    """A replica that stops sends everyone away."""
    waiters = WakeupQueue()
    assert await drained(waiters, *[await waiting(waiters) for _ in range(5)]) == [False] * 5
