"""The lease of a queue message, on an event loop with a simulated clock that jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from aiohttp import ClientConnectorError, ServerDisconnectedError
from aiohttp.client_reqrep import ConnectionKey
from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError, ServiceResponseError

from headway.azure.job_queue import ReceivedMessage
from headway.contracts import Timestamp
from services.worker.lease import STOP_MARGIN_FRACTION, Lease
from services.worker.outcomes import LeaseLost

Behavior = Callable[[], Awaitable[None]]

LEASE_S = 60
HANDLER_TIME_S = LEASE_S * (1 - STOP_MARGIN_FRACTION)  # from a confirmed renewal to the handler's deadline

UNSENT = ServiceRequestError(
    "no route",
    error=ClientConnectorError(ConnectionKey("h", 1, False, True, None, None, None), OSError("no route")),
)
# The SDK raises a request error although the request was sent and only the response is lost.
DISCONNECTED = ServiceRequestError("disconnected", error=ServerDisconnectedError())


class SimulatedClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        loop = self
        self.now = 0.0

        class ClockSelector(selectors.SelectSelector):
            def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
                assert timeout is not None, "deadlock: all tasks wait and there is no timer"
                loop.now += max(0.0, timeout)
                return super().select(0)

        super().__init__(ClockSelector())

    def time(self) -> float:
        return self.now


class FakeQueue:
    """A queue with one message. `behaviors` are consumed by the next calls, `default_behavior` applies afterwards."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, str, str]] = []  # time, operation, pop receipt
        self.behaviors: list[Behavior] = []
        self.default_behavior: Behavior | None = None
        self.receipt_count = 0

    async def update(self, message_id: str, receipt: str, visibility_s: int, text: str | None = None) -> str:
        await self._record("update" if text is None else f"release {text} {visibility_s}", receipt)
        self.receipt_count += 1
        return f"receipt {self.receipt_count}"

    async def delete(self, message_id: str, receipt: str) -> None:
        await self._record("delete", receipt)

    async def _record(self, operation: str, receipt: str) -> None:
        self.calls.append((now(), operation, receipt))
        behavior = self.behaviors.pop(0) if self.behaviors else self.default_behavior
        if behavior is not None:
            await behavior()

    def operations(self) -> list[str]:
        """Return the operations of all calls."""
        return [operation for _, operation, _ in self.calls]


def failing(error: AzureError) -> Behavior:
    """Return the behavior of a call that fails."""

    async def fail() -> None:
        raise error

    return fail


def taking(seconds: float, error: AzureError | None = None) -> Behavior:
    """Return the behavior of a call that takes a while, and then fails if an error is given."""

    async def wait() -> None:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error

    return wait


def error_response(code: str) -> HttpResponseError:
    """Return the exception of the SDK for an error response with this code."""
    error = HttpResponseError(code)
    error.error_code = code  # type: ignore[attr-defined]
    return error


def run_with_lease(test: Callable[[Lease, FakeQueue], Awaitable[None]]) -> None:
    """Run a test with a lease that was requested at time 0."""
    with asyncio.Runner(loop_factory=SimulatedClockLoop) as runner:
        queue = FakeQueue()

        async def main() -> None:
            received = ReceivedMessage("m-1", "receipt 0", "text", 1, Timestamp(0), Timestamp(0), 0.0)
            await test(Lease(queue, received, LEASE_S, now), queue)

        runner.run(main())


def now() -> float:
    """Return the time of the simulated clock."""
    return asyncio.get_running_loop().time()


async def renew(lease: Lease, seconds: float) -> int:
    """Renew a lease for a while and return the number of renewals; raise the reason if the lease is lost."""
    renewals: list[float] = []
    lost: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    async with lease.renewed(lambda: renewals.append(now()), lost.set_result):
        await asyncio.wait({lost}, timeout=seconds)
    if lost.done():
        raise lost.result()
    return len(renewals)


def test_lease_is_renewed_at_half_time() -> None:
    """Each renewal uses the receipt of the previous one; its time is random, up to half of the lease."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        assert 19 <= await renew(lease, 10 * LEASE_S) <= 23
        times = [time for time, _, _ in queue.calls]
        intervals = [after - before for before, after in pairwise([0.0, *times])]
        assert all(LEASE_S * 0.45 <= interval <= LEASE_S / 2 + 0.01 for interval in intervals)
        assert len({round(interval, 3) for interval in intervals}) > 10
        assert [receipt for _, _, receipt in queue.calls] == [f"receipt {n}" for n in range(len(times))]

    run_with_lease(test)


@pytest.mark.parametrize("code", ["MessageNotFound", "PopReceiptMismatch"])
def test_lease_is_lost_at_once_if_the_receipt_is_invalid(code: str) -> None:
    """The error response proves that another worker has the message; the renewal is not retried."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.behaviors = [failing(error_response(code))]
        with pytest.raises(LeaseLost, match="another worker"):
            await renew(lease, 10 * LEASE_S)
        assert now() <= LEASE_S / 2
        assert queue.operations() == ["update"]

    run_with_lease(test)


@pytest.mark.parametrize(
    "behavior",
    [
        failing(ServiceResponseError("connection reset")),
        failing(DISCONNECTED),
        failing(error_response("OperationTimedOut")),
        taking(10 * LEASE_S),
    ],
    ids=["lost response", "disconnected", "error 500", "no response"],
)
def test_message_with_an_uncertain_receipt_is_not_settled(behavior: Behavior) -> None:
    """After a renewal without a result, a mismatch proves nothing: the lease is lost at the handler's deadline."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.behaviors = [behavior]
        queue.default_behavior = failing(error_response("PopReceiptMismatch"))
        with pytest.raises(LeaseLost, match="in time"):
            await renew(lease, 10 * LEASE_S)
        assert now() == pytest.approx(HANDLER_TIME_S)
        await lease.delete()
        assert not await lease.release("text")
        assert set(queue.operations()) == {"update"}

    run_with_lease(test)


def test_lease_counts_from_the_start_of_its_renewal() -> None:
    """The deadline of the handler does not depend on how long the response to the renewal took."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.behaviors = [taking(10)]
        queue.default_behavior = failing(ServiceResponseError("connection reset"))
        with pytest.raises(LeaseLost):
            await renew(lease, 10 * LEASE_S)
        assert now() == pytest.approx(queue.calls[0][0] + HANDLER_TIME_S)

    run_with_lease(test)


def test_successful_renewal_makes_the_receipt_certain_again() -> None:
    """The message is settled with the receipt of the newest renewal."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.behaviors = [failing(ServiceResponseError("connection reset"))]
        await renew(lease, LEASE_S)
        assert queue.operations()[:2] == ["update", "update"]
        await lease.delete()
        assert queue.calls[-1][1:] == ("delete", f"receipt {queue.receipt_count}")

    run_with_lease(test)


def test_unsent_renewal_leaves_the_receipt_certain() -> None:
    """A renewal that fails before it is sent is retried soon, and the message can still be settled."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.behaviors = [failing(UNSENT)] * 2
        assert await renew(lease, LEASE_S * 0.8) == 1
        times = [time for time, _, _ in queue.calls]
        assert times[2] - times[0] == pytest.approx(2 * LEASE_S * 0.1)
        queue.behaviors = [failing(UNSENT)]
        await renew(lease, LEASE_S * 0.52)
        assert queue.behaviors == []
        await lease.delete()
        assert queue.calls[-1][1:] == ("delete", "receipt 1")

    run_with_lease(test)


def test_lease_is_lost_while_the_network_is_down() -> None:
    """The lease is lost at the handler's deadline if no renewal can be sent."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.default_behavior = failing(UNSENT)
        with pytest.raises(LeaseLost):
            await renew(lease, 10 * LEASE_S)
        assert now() == pytest.approx(HANDLER_TIME_S)

    run_with_lease(test)


@pytest.mark.parametrize("settle", ["delete", "release"])
def test_settling_waits_for_a_renewal_in_flight(settle: str) -> None:
    """The message is settled after the renewal, with the receipt that the renewal returned."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.behaviors = [taking(5)]
        renewing = asyncio.create_task(renew(lease, 10 * LEASE_S))
        await asyncio.sleep(LEASE_S / 2 + 0.001)
        assert queue.operations() == ["update"]
        await (lease.delete() if settle == "delete" else lease.release("text"))
        expected = "delete" if settle == "delete" else "release text 0"
        assert [call[1:] for call in queue.calls] == [("update", "receipt 0"), (expected, "receipt 1")]
        assert queue.calls[1][0] == pytest.approx(queue.calls[0][0] + 5)
        renewing.cancel()

    run_with_lease(test)


def test_message_is_not_settled_if_the_renewal_in_flight_has_no_response() -> None:
    """A settlement that waited for a renewal checks again whether the receipt is certain."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.behaviors = [taking(5, ServiceResponseError("connection reset"))]
        queue.default_behavior = failing(error_response("PopReceiptMismatch"))
        renewing = asyncio.create_task(renew(lease, LEASE_S * 0.7))
        await asyncio.sleep(LEASE_S / 2 + 0.001)
        await lease.delete()
        assert set(queue.operations()) == {"update"}
        await renewing

    run_with_lease(test)


def test_released_message_is_not_renewed() -> None:
    """A renewal after the release would take the message from the worker that has it now."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        assert await lease.release("text")
        assert await renew(lease, 2 * LEASE_S) == 0
        assert queue.operations() == ["release text 0"]

    run_with_lease(test)


FAILURES = [ServiceResponseError("connection reset"), error_response("InternalError"), UNSENT]


@pytest.mark.parametrize("error", FAILURES, ids=["lost response", "error 500", "unsent"])
@pytest.mark.parametrize(
    "later_behaviors",
    [[], [failing(error_response("PopReceiptMismatch"))]],
    ids=["first try not applied", "first try applied"],
)
def test_failed_release_is_retried(error: AzureError, later_behaviors: list[Behavior]) -> None:
    """A mismatch on the second try shows that the first one has released the message."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.behaviors = [failing(error), *later_behaviors]
        assert await lease.release("text")
        assert queue.operations() == ["release text 0"] * 2
        assert now() < 1

    run_with_lease(test)


@pytest.mark.parametrize(("error", "tries"), [(FAILURES[0], 3), (error_response("PopReceiptMismatch"), 1)])
def test_release_gives_up(error: AzureError, tries: int) -> None:
    """The release is tried a few times; if another worker has the message, only once."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.default_behavior = failing(error)
        with pytest.raises(type(error)):
            await lease.release("text")
        assert queue.operations() == ["release text 0"] * tries
        assert now() < 1

    run_with_lease(test)


def test_end_of_the_lease_moves_with_each_renewal() -> None:
    """`until` is the end of the confirmed lease."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        assert lease.until == LEASE_S
        await renew(lease, LEASE_S * 0.55)
        assert lease.until == queue.calls[-1][0] + LEASE_S

    run_with_lease(test)


async def save_text(lease: Lease, seconds: float, *texts: str) -> list[float]:
    """Renew the lease for a while and save texts at the start; return the time when each was confirmed."""

    async def save(text: str) -> float:
        await lease.save_text(text)
        return now()

    saves = [asyncio.create_task(save(text)) for text in texts]
    await renew(lease, seconds)
    return await asyncio.gather(*saves)


def test_text_is_saved_at_once_and_renews_the_lease() -> None:
    """`save_text` returns when the queue confirms; the next renewal is half a lease later, without a text."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.behaviors = [taking(2)]
        assert await save_text(lease, 40, "a") == [2]
        assert queue.operations() == ["release a 60", "update"]
        assert queue.calls[1][0] == pytest.approx(30.5, abs=1.6)  # 2 s plus 27 to 30 s

    run_with_lease(test)


def test_newer_text_replaces_an_unsent_one() -> None:
    """Of the texts that are set during a renewal, the next renewal sends only the last."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.behaviors = [taking(2), taking(2)]
        first = asyncio.create_task(save_text(lease, 20, "a"))
        await asyncio.sleep(1)
        later = [asyncio.create_task(lease.save_text(text)) for text in ("b", "c")]
        assert await first == [2]
        await asyncio.gather(*later)
        assert queue.operations() == ["release a 60", "release c 60"]

    run_with_lease(test)


def test_text_is_sent_again_after_a_failure() -> None:
    """`save_text` returns only when the queue has confirmed the text."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.behaviors = [failing(UNSENT), failing(error_response("InternalError"))]
        (confirmed_at,) = await save_text(lease, 20, "a")
        assert queue.operations() == ["release a 60"] * 3
        assert confirmed_at == pytest.approx(12, abs=1)

    run_with_lease(test)


def test_save_is_cancelled_when_the_lease_is_lost() -> None:
    """A caller that waits for a text to be saved is cancelled, and so is a later one."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.behaviors = [failing(error_response("MessageNotFound"))]
        waiting = asyncio.create_task(lease.save_text("a"))
        with pytest.raises(LeaseLost):
            await renew(lease, 10 * LEASE_S)
        for save in (waiting, lease.save_text("b")):
            with pytest.raises(asyncio.CancelledError):
                await save

    run_with_lease(test)


@pytest.mark.parametrize("error", [TypeError("a bug"), asyncio.CancelledError()], ids=["bug", "cancelled"])
def test_lease_is_lost_when_its_renewal_ends(error: BaseException) -> None:
    """A bug and a cancellation end the lease, too, because the message is not renewed. Texts are not saved any more."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        async def fail() -> None:
            raise error

        queue.behaviors = [fail]
        with pytest.raises(type(error)):
            await renew(lease, 10 * LEASE_S)
        assert now() <= LEASE_S / 2
        with pytest.raises(asyncio.CancelledError):
            await lease.save_text("a")

    run_with_lease(test)


def test_no_renewal_outlives_the_block() -> None:
    """A request in flight is cancelled and awaited: it must not change a message that is settled."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        queue.behaviors = [taking(LEASE_S)]
        async with lease.renewed(lambda: None, lambda _: None):
            await asyncio.sleep(LEASE_S / 2 + 0.001)
            assert queue.operations() == ["update"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_with_lease(test)


def test_lease_is_lost_when_its_renewal_is_cancelled_before_it_starts() -> None:
    """A task that is cancelled before its first step runs no code of its own."""

    async def test(lease: Lease, _queue: FakeQueue) -> None:
        lost: list[BaseException] = []
        async with lease.renewed(lambda: None, lost.append):
            (renewal,) = asyncio.all_tasks() - {asyncio.current_task()}
            renewal.cancel()
            await asyncio.wait({renewal})
            await asyncio.sleep(0)
        assert [type(error) for error in lost] == [asyncio.CancelledError]

    run_with_lease(test)


def test_renewal_ends_with_the_settlement() -> None:
    """A message that is settled while its delivery still waits for something is not a lost lease."""

    async def test(lease: Lease, queue: FakeQueue) -> None:
        lost: list[BaseException] = []
        async with lease.renewed(lambda: None, lost.append):
            await lease.release("text")
            await asyncio.sleep(10 * LEASE_S)
        assert (lost, queue.operations()) == ([], ["release text 0"])

    run_with_lease(test)
