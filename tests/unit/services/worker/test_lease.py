"""The lease, on a loop whose clock jumps from one timer to the next: nothing waits, and nothing is left to chance."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import ClientConnectorError, ServerDisconnectedError
from aiohttp.client_reqrep import ConnectionKey
from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError, ServiceResponseError

from headway.azure.job_queue import ReceivedMessage
from headway.contracts import Timestamp
from services.worker.lease import HANDLER_MARGIN, Lease, LeaseLost

LEASE_S = 60
END_S = LEASE_S * (1 - HANDLER_MARGIN)  # when a handler must be told to stop

UNSENT = ServiceRequestError(
    "no route",
    error=ClientConnectorError(ConnectionKey("h", 1, False, True, None, None, None), OSError("no route")),
)
DISCONNECTED = ServiceRequestError("gone", error=ServerDisconnectedError())  # the SDK's word for a lost answer


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time."""

    def __init__(self) -> None:
        loop = self
        self.now = 0.0

        class Jump(selectors.SelectSelector):
            def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
                assert timeout is not None, "everything waits, and no timer would ever end it"
                loop.now += max(0.0, timeout)
                return super().select(0)

        super().__init__(Jump())

    def time(self) -> float:
        return self.now


class FakeMessages:
    """A queue with one message; what a call should do can be laid down beforehand."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, str, str]] = []  # when, what, with which receipt
        self.script: list[Callable[[], Awaitable[None]]] = []
        self.otherwise: Callable[[], Awaitable[None]] | None = None
        self.receipts = 0

    async def update(self, message_id: str, receipt: str, visibility_s: int, text: str | None = None) -> str:
        await self._called("update" if text is None else f"release {text} {visibility_s}", receipt)
        self.receipts += 1
        return f"receipt {self.receipts}"

    async def delete(self, message_id: str, receipt: str) -> None:
        await self._called("delete", receipt)

    async def _called(self, what: str, receipt: str) -> None:
        self.calls.append((asyncio.get_running_loop().time(), what, receipt))
        act = self.script.pop(0) if self.script else self.otherwise
        if act is not None:
            await act()

    def whats(self) -> list[str]:
        """Name the calls."""
        return [what for _, what, _ in self.calls]


def failing(error: AzureError) -> Callable[[], Awaitable[None]]:
    """Make a call fail."""

    async def fail() -> None:
        raise error

    return fail


def taking(seconds: float, error: AzureError | None = None) -> Callable[[], Awaitable[None]]:
    """Make a call take its time."""

    async def wait() -> None:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error

    return wait


def answered(code: str) -> HttpResponseError:
    """Return what the SDK raises for an answer with this code."""
    error = HttpResponseError(code)
    error.error_code = code  # type: ignore[attr-defined]
    return error


def on_jumping_loop(test: Callable[[Lease, FakeMessages], Awaitable[None]]) -> None:
    """Run a test with a lease that began at time 0."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        messages = FakeMessages()

        async def main() -> None:
            received = ReceivedMessage("m-1", "receipt 0", "text", 1, Timestamp(0), 0.0)
            await test(Lease(messages, received, LEASE_S, asyncio.get_running_loop().time), messages)

        runner.run(main())


def now() -> float:
    """Tell the loop's time."""
    return asyncio.get_running_loop().time()


async def hold(lease: Lease, seconds: float) -> int:
    """Hold a lease for a while and count the renewals; LeaseLost as soon as it is lost."""
    renewals: list[float] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await lease.renew_forever(lambda: renewals.append(now()))
    return len(renewals)


def test_a_lease_is_renewed_at_half_time() -> None:
    """Every renewal comes before or at half the lease, with the receipt of the one before."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        assert 19 <= await hold(lease, 10 * LEASE_S) <= 23
        times = [when for when, _, _ in messages.calls]
        pauses = [later - sooner for sooner, later in pairwise([0.0, *times])]
        assert all(LEASE_S * 0.45 <= pause <= LEASE_S / 2 + 0.01 for pause in pauses)
        assert len({round(pause, 3) for pause in pauses}) > 10  # many leases do not stay in step
        assert [receipt for _, _, receipt in messages.calls] == [f"receipt {n}" for n in range(len(times))]

    on_jumping_loop(test)


@pytest.mark.parametrize("code", ["MessageNotFound", "PopReceiptMismatch"])
def test_a_message_that_was_taken_is_lost_at_once(code: str) -> None:
    """A clean answer that the message is another's needs no second question."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        messages.script = [failing(answered(code))]
        with pytest.raises(LeaseLost, match="another worker"):
            await hold(lease, 10 * LEASE_S)
        assert now() <= LEASE_S / 2
        assert messages.whats() == ["update"]

    on_jumping_loop(test)


@pytest.mark.parametrize(
    "doubt",
    [
        failing(ServiceResponseError("connection reset")),
        failing(DISCONNECTED),
        failing(answered("OperationTimedOut")),
        taking(10 * LEASE_S),
    ],
    ids=["lost response", "disconnected", "error 500", "no response"],
)
def test_in_doubt_the_lease_ends_early_and_nothing_is_settled(doubt: Any) -> None:
    """After a lost response a mismatch proves nothing; the handler is stopped before the confirmed lease ends."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        messages.script = [doubt]
        messages.otherwise = failing(answered("PopReceiptMismatch"))
        with pytest.raises(LeaseLost, match="in time"):
            await hold(lease, 10 * LEASE_S)
        assert now() == pytest.approx(END_S)
        await lease.delete()
        assert not await lease.release("text")
        assert set(messages.whats()) == {"update"}

    on_jumping_loop(test)


def test_a_confirmed_lease_ends_counted_from_before_its_request() -> None:
    """A renewal that was answered late is counted from when it was asked for."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        messages.script = [taking(10)]
        messages.otherwise = failing(ServiceResponseError("connection reset"))
        with pytest.raises(LeaseLost):
            await hold(lease, 10 * LEASE_S)
        assert now() == pytest.approx(messages.calls[0][0] + END_S)

    on_jumping_loop(test)


def test_a_doubt_that_a_renewal_clears_up_is_forgotten() -> None:
    """When the receipt turns out to be alive, the message can be settled with the new one."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        messages.script = [failing(ServiceResponseError("connection reset"))]
        await hold(lease, LEASE_S)
        assert messages.whats()[:2] == ["update", "update"]
        await lease.delete()
        assert messages.calls[-1][1:] == ("delete", f"receipt {messages.receipts}")

    on_jumping_loop(test)


def test_a_request_that_never_left_is_no_doubt() -> None:
    """A refused connection is tried again soon, and in the end the message can still be settled."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        messages.script = [failing(UNSENT)] * 2
        assert await hold(lease, LEASE_S * 0.8) == 1
        times = [when for when, _, _ in messages.calls]
        assert times[2] - times[0] == pytest.approx(2 * LEASE_S * 0.1)
        messages.script = [failing(UNSENT)]
        await hold(lease, LEASE_S * 0.52)
        assert messages.script == []
        await lease.delete()
        assert messages.calls[-1][1:] == ("delete", "receipt 1")

    on_jumping_loop(test)


def test_a_network_that_stays_away_loses_the_lease_in_time() -> None:
    """Requests that never leave do not keep a handler running past the lease."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        messages.otherwise = failing(UNSENT)
        with pytest.raises(LeaseLost):
            await hold(lease, 10 * LEASE_S)
        assert now() == pytest.approx(END_S)

    on_jumping_loop(test)


@pytest.mark.parametrize("settle", ["delete", "release"])
def test_settling_waits_for_a_renewal_in_flight(settle: str) -> None:
    """Whoever settles while a renewal is on its way does it afterwards, with the receipt that came of it."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        messages.script = [taking(5)]
        holding = asyncio.create_task(hold(lease, 10 * LEASE_S))
        await asyncio.sleep(LEASE_S / 2 + 0.001)
        assert messages.whats() == ["update"]
        await (lease.delete() if settle == "delete" else lease.release("text"))
        expected = "delete" if settle == "delete" else "release text 0"
        assert [call[1:] for call in messages.calls] == [("update", "receipt 0"), (expected, "receipt 1")]
        assert messages.calls[1][0] == pytest.approx(messages.calls[0][0] + 5)
        holding.cancel()

    on_jumping_loop(test)


def test_settling_after_a_renewal_whose_response_is_lost_does_nothing() -> None:
    """The doubt that a renewal in flight leaves behind holds for whoever waited for it."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        messages.script = [taking(5, ServiceResponseError("connection reset"))]
        messages.otherwise = failing(answered("PopReceiptMismatch"))
        holding = asyncio.create_task(hold(lease, LEASE_S * 0.7))
        await asyncio.sleep(LEASE_S / 2 + 0.001)
        await lease.delete()
        assert set(messages.whats()) == {"update"}
        await holding

    on_jumping_loop(test)


def test_what_is_settled_is_not_renewed() -> None:
    """A renewal after the message was handed back would take it from whoever has it now."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        assert await lease.release("text")
        with suppress(LeaseLost):
            await hold(lease, 2 * LEASE_S)
        assert messages.whats() == ["release text 0"]

    on_jumping_loop(test)


FAILURES = [ServiceResponseError("connection reset"), answered("InternalError"), UNSENT]


@pytest.mark.parametrize("error", FAILURES, ids=["lost response", "error 500", "unsent"])
@pytest.mark.parametrize("then", [[], [failing(answered("PopReceiptMismatch"))]], ids=["not done", "done"])
def test_handing_back_is_tried_again(error: AzureError, then: list[Any]) -> None:
    """A failure does not keep the job from everybody until the lease ends; a mismatch then says that it was done."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        messages.script = [failing(error), *then]
        assert await lease.release("text")
        assert messages.whats() == ["release text 0"] * 2
        assert now() < 1

    on_jumping_loop(test)


@pytest.mark.parametrize(("error", "tries"), [(FAILURES[0], 3), (answered("PopReceiptMismatch"), 1)])
def test_what_cannot_be_handed_back_is_left_to_come_back(error: AzureError, tries: int) -> None:
    """A service that stays away is not waited for, and another worker's message is let alone at once."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        messages.otherwise = failing(error)
        with pytest.raises(type(error)):
            await lease.release("text")
        assert messages.whats() == ["release text 0"] * tries
        assert now() < 1

    on_jumping_loop(test)


def test_the_end_of_the_lease_moves_with_each_renewal() -> None:
    """`until` is what reports tell: the confirmed lease on this machine's clock."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        assert abs(lease.until - Timestamp.now().after(LEASE_S)) < 1000
        await hold(lease, LEASE_S * 0.55)
        left_s = LEASE_S - (now() - messages.calls[-1][0])
        assert abs(lease.until - Timestamp.now().after(left_s)) < 1000

    on_jumping_loop(test)


async def saving(lease: Lease, seconds: float, *texts: str) -> list[float]:
    """Hold the lease for a while and save texts at once; return when each was there."""
    loop = asyncio.get_running_loop()

    async def save(text: str) -> float:
        await lease.save_text(text)
        return loop.time()

    saves = [asyncio.create_task(save(text)) for text in texts]
    await hold(lease, seconds)
    return await asyncio.gather(*saves)


def test_a_text_is_written_at_once_and_renews_the_lease() -> None:
    """Whoever saves it goes on when it is there; the next renewal is half a lease later, and writes nothing."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        messages.script = [taking(2)]
        assert await saving(lease, 40, "a") == [2]
        assert [what for _, what, _ in messages.calls] == ["release a 60", "update"]
        assert messages.calls[1][0] == pytest.approx(30.5, abs=1.6)  # after half a lease, less a little

    on_jumping_loop(test)


def test_a_newer_text_replaces_one_that_waits() -> None:
    """What comes during a renewal goes with the next one."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        messages.script = [taking(2), taking(2)]
        first = asyncio.create_task(saving(lease, 20, "a"))
        await asyncio.sleep(1)
        later = [asyncio.create_task(lease.save_text(text)) for text in ("b", "c")]
        assert await first == [2]
        await asyncio.gather(*later)
        assert messages.whats() == ["release a 60", "release c 60"]

    on_jumping_loop(test)


def test_a_text_that_did_not_arrive_is_written_again() -> None:
    """It is saved only once the queue has said so."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        messages.script = [failing(UNSENT), failing(answered("InternalError"))]
        (saved_at,) = await saving(lease, 20, "a")
        assert messages.whats() == ["release a 60"] * 3
        assert saved_at == pytest.approx(12, abs=1)

    on_jumping_loop(test)


def test_nothing_is_saved_once_the_lease_is_lost() -> None:
    """Whoever waits for it is cancelled, and whoever comes later, too."""

    async def test(lease: Lease, messages: FakeMessages) -> None:
        messages.script = [failing(answered("MessageNotFound"))]
        waiting = asyncio.create_task(lease.save_text("a"))
        with pytest.raises(LeaseLost):
            await lease.renew_forever(lambda: None)
        for save in (waiting, lease.save_text("b")):
            with pytest.raises(asyncio.CancelledError):
                await save

    on_jumping_loop(test)
