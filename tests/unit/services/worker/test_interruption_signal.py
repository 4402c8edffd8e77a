"""The signal that interrupts a delivery: which interruption counts, and what happens to the work in progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from services.worker.interruption_signal import InterruptionSignal
from services.worker.outcomes import Interruption

STOPPED, CANCELLED, LEASE_LOST = Interruption.STOPPED, Interruption.CANCELLED, Interruption.LEASE_LOST


@pytest.fixture
async def signal() -> InterruptionSignal:
    """Return a signal."""
    return InterruptionSignal()


async def returning(call: Callable[[], object]) -> str:
    """Schedule a call for right after this work, and return a result."""
    asyncio.get_running_loop().call_soon(call)
    return "result"


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ([CANCELLED, STOPPED], CANCELLED),
        ([STOPPED, LEASE_LOST], LEASE_LOST),
        ([LEASE_LOST, CANCELLED], LEASE_LOST),
        ([LEASE_LOST, LEASE_LOST], LEASE_LOST),
    ],
)
async def test_the_first_interruption_counts_unless_the_lease_is_lost(
    reasons: list[Interruption], expected: Interruption, signal: InterruptionSignal
) -> None:
    """A lost lease replaces any other interruption."""
    for reason in reasons:
        signal.interrupt(reason)
    assert signal.reason is expected


async def test_an_ending_forgets_all_interruptions_but_a_lost_lease(signal: InterruptionSignal) -> None:
    """Earlier ones are dropped and later ones ignored; a lost lease counts before and after."""
    signal.interrupt(STOPPED)
    signal.begin_ending()
    signal.interrupt(CANCELLED)
    assert signal.reason is None
    signal.interrupt(LEASE_LOST)
    signal.begin_ending()
    assert signal.reason is LEASE_LOST


async def test_work_that_completes_first_has_its_result(signal: InterruptionSignal) -> None:
    """An interruption right afterwards comes too late."""
    assert await signal.race(returning(lambda: signal.interrupt(STOPPED))) == "result"


async def test_a_lost_lease_replaces_even_a_result(signal: InterruptionSignal) -> None:
    """Another worker may have the job, so nothing may be done with the result."""
    assert await signal.race(returning(lambda: signal.interrupt(LEASE_LOST))) is LEASE_LOST


async def test_interrupted_work_is_cancelled_and_awaited(signal: InterruptionSignal) -> None:
    """The work gets the reason, cleans up, and what it raises is dropped."""
    events: list[object] = []

    async def work() -> None:
        asyncio.get_running_loop().call_soon(signal.interrupt, CANCELLED)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            await asyncio.sleep(0)
            events.extend(error.args)
            raise ValueError("in the cleanup") from error

    assert await signal.race(work()) is CANCELLED
    assert events == ["cancel"]


async def test_work_does_not_start_after_an_interruption(signal: InterruptionSignal) -> None:
    """It is closed without running."""
    called: list[str] = []

    async def work() -> None:
        called.append("work")

    signal.interrupt(STOPPED)
    assert await signal.race(work()) is STOPPED
    assert called == []


async def test_work_is_cancelled_with_its_delivery(signal: InterruptionSignal) -> None:
    """A race that is cancelled itself waits until the work has stopped."""
    started, events = asyncio.Event(), list[str]()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            events.append("stopped")

    racing = asyncio.create_task(signal.race(work()))
    await started.wait()
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert events == ["stopped"]
