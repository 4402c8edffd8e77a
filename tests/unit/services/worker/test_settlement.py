"""The settlement of a message: what each outcome of a delivery does to it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from azure.core.exceptions import ServiceRequestError
from msgspec.structs import replace

from headway.contracts import JobMessage
from services.worker import metrics, settlement
from services.worker.lease import Lease
from services.worker.outcomes import Finished, Interruption, Outcome, RetryLater, public_failure
from services.worker.settlement import Settlement
from tests.unit.services.worker.fake_worker import LEASE_S, FakeFollowUps, FakeQueue, FakeWakeups
from tests.unit.services.worker.logs.test_job_log import REPORT

TEXT = "the message"
LATER = RetryLater(public_failure("Retry", "later"), 5)


class FakeLeasedJob:
    """A leased job that is not expired and records its reports."""

    def __init__(self, queue: FakeQueue) -> None:
        self._queue = queue
        self.job = self.stream = self
        self.expired = False
        self.message = JobMessage(id=uuid4(), on_end="tell")
        self.received = queue.receive()
        self.latest = replace(REPORT, status="succeeded")

    def release_text(self) -> str:
        """Return the text of the released message."""
        return "released"

    async def report(self, status: str) -> None:
        """Record a report."""
        self._queue.calls.append(status)


class Settling:
    """A settlement and all that it needs."""

    def __init__(self) -> None:
        self.queue, self.wakeups = FakeQueue(TEXT), FakeWakeups()
        self.leased: Any = FakeLeasedJob(self.queue)
        received = self.leased.received
        queue: Any = self.queue
        wakeups: Any = self.wakeups
        self.follow_ups = FakeFollowUps(self.queue.calls)
        follow_ups: Any = self.follow_ups
        lease = Lease(self.queue, received, LEASE_S)
        self.settlement = Settlement(queue, wakeups, follow_ups, lease, received.id)

    async def settle(self, outcome: Outcome) -> list[str]:
        """Settle the message and return what happened, in order."""
        await self.settlement.settle(outcome, self.leased)
        return self.queue.calls


@pytest.mark.parametrize(
    ("outcome", "calls", "delays_s"),
    [
        (Finished("succeeded"), ["follow-up tell", "delete"], []),
        (Finished("failed"), ["follow-up tell", "delete"], []),
        (Finished("cancelled"), ["follow-up tell", "delete"], []),
        (Interruption.FINISHED, ["follow-up tell, if ended", "delete"], []),
        (Interruption.REFUSED, ["delete"], []),
        (Interruption.SUPERSEDED, [], []),
        (Interruption.LEASE_LOST, [], []),
        (LATER, ["release 5"], [5]),
        (Interruption.STOPPED, ["release 0", "queued"], [0]),
    ],
)
async def test_each_outcome_settles_the_message(outcome: Outcome, calls: list[str], delays_s: list[float]) -> None:
    """A message is deleted when its job has ended, released for another delivery, or left to another worker."""
    settling = Settling()
    assert (await settling.settle(outcome), settling.wakeups.delays_s) == (calls, delays_s)


@pytest.mark.parametrize("outcome", [Finished("failed"), Interruption.FINISHED])
async def test_message_is_kept_until_its_follow_up_job_is_submitted(outcome: Outcome) -> None:
    """It is delivered again after a random delay, which grows with the deliveries up to a minute."""
    settling = Settling()
    settling.follow_ups.accepting = False
    _, release = await settling.settle(outcome)
    (delay_s,) = settling.wakeups.delays_s
    assert (release, settling.queue.text) == (f"release {delay_s:.0f}", TEXT)
    assert 0 <= delay_s <= 2


async def test_superseded_message_of_an_expired_job_is_deleted() -> None:
    """Otherwise the queue would deliver it for ever; a receipt that another worker has replaced deletes nothing."""
    settling = Settling()
    settling.leased.expired = True
    assert await settling.settle(Interruption.SUPERSEDED) == ["delete"]


async def test_retry_keeps_the_text_and_a_stop_replaces_it() -> None:
    """The next attempt gets the checkpoint from the message as it is; only a release that costs no attempt is noted."""
    retrying, stopping = Settling(), Settling()
    await retrying.settle(LATER)
    await stopping.settle(Interruption.STOPPED)
    assert (retrying.queue.text, stopping.queue.text) == (TEXT, "released")


async def test_message_with_an_uncertain_receipt_is_left_alone() -> None:
    """Neither a report nor a wake-up follows a release that did not happen."""
    settling = Settling()
    settling.settlement._lease._receipt_uncertain = True
    outcomes: list[Outcome] = [Interruption.STOPPED, LATER, Interruption.REFUSED]
    assert [await settling.settle(outcome) for outcome in outcomes] == [[]] * 3
    settling.follow_ups.accepting = False
    assert await settling.settle(Finished("failed")) == ["follow-up tell"]
    assert settling.wakeups.delays_s == []


async def test_lost_leases_are_counted() -> None:
    """An operator sees how many jobs were stopped."""
    before = metrics.LEASES_LOST._value.get()
    await Settling().settle(Interruption.LEASE_LOST)
    assert metrics.LEASES_LOST._value.get() == before + 1


async def test_copying_to_the_poison_queue_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is counted once, and deleted only when the copy exists."""
    monkeypatch.setattr(settlement, "POISON_BACKOFF_S", 0.001)
    settling = Settling()
    settling.queue.errors["poison"] = [ServiceRequestError("unavailable")] * 3
    before = metrics.MESSAGES_POISONED.labels("unreadable")._value.get()
    await settling.settlement.move_to_poison_queue("unreadable", TEXT)
    assert (settling.queue.calls, settling.queue.poisoned) == (["poison", "delete"], [TEXT])
    assert metrics.MESSAGES_POISONED.labels("unreadable")._value.get() == before + 1
