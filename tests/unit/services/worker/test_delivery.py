"""One delivery of a message, with a queue in memory and a notifier that answers at once."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from azure.core.exceptions import ServiceRequestError
from msgspec import Struct
from structlog.testing import capture_logs

from headway import Job, JobContext, Retry, job
from headway.contracts import MAX_MESSAGE_BYTES, MAX_RELEASES, JobError, Json, Progress, Timestamp
from headway.message_codec import decode_message, message_json
from services.worker import settlement
from services.worker.audiences import INTERNAL_ERROR
from services.worker.delivery import Delivery
from services.worker.execution import runner
from services.worker.lease import Lease
from services.worker.logs.capture import capture_output
from tests.unit.services.worker.fake_worker import ACCEPTED, CANCEL_REQUESTED, FakeWorker, rejected
from tests.waiting import PATIENCE_S

UNAVAILABLE = ServiceRequestError("the queue is unavailable")
SHORT_LEASE_S = 0.4  # in which a handler starts, also on a busy machine


class Handlers:
    """The handler of a test: it records its starts and the reasons of its cancellations.

    Attributes:
        starts: the attempts that were started.
        cancellations: the arguments of its CancelledErrors.
    """

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.cancellations: list[str] = []
        self.started = asyncio.Event()

    def waiting(self, **options: Any) -> Job[Any, Any]:
        """Return a job that reports 40 % and runs until it is cancelled."""

        @job("waits", **options)
        async def waits(ctx: JobContext, _payload: Any) -> None:
            self.starts.append(ctx.attempt)
            ctx.progress(40, 100)
            self.started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                self.cancellations.append(*error.args)
                raise

        return waits

    def raising(self, error: Exception, **options: Any) -> Job[Any, Any]:
        """Return a job that raises an exception."""

        @job("raises", **options)
        async def raises(ctx: JobContext, _payload: Any) -> None:
            self.starts.append(ctx.attempt)
            raise error

        return raises


@pytest.fixture
async def handlers() -> Handlers:
    """Return the record of a handler."""
    return Handlers()


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon to copy a message to the poison queue."""
    monkeypatch.setattr(settlement, "POISON_BACKOFF_S", 0.01)


@job("succeeds")
async def succeeds(_ctx: JobContext, _payload: Any) -> str:
    """Succeed."""
    return "done"


async def start(worker: FakeWorker, handlers: Handlers) -> tuple[Delivery, asyncio.Task[None]]:
    """Receive the message and wait until its handler runs."""
    delivery = worker.receive()
    handling = asyncio.create_task(delivery.handle())
    await asyncio.wait_for(handlers.started.wait(), PATIENCE_S)
    handlers.started.clear()
    return delivery, handling


async def finish(handling: asyncio.Task[None]) -> None:
    """Wait for the end of a delivery."""
    await asyncio.wait_for(handling, PATIENCE_S)


async def run_ready_tasks() -> None:
    """Run all tasks that wait for nothing but their turn."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_message_is_deleted_after_its_job_has_ended() -> None:
    """The worker reports the start and the ending, and deletes the message only after the verdict on the ending."""
    worker = FakeWorker(succeeds)
    await worker.deliver()
    assert worker.calls == ["running", "succeeded", "delete"]
    assert bytes(worker.reporter.reports[-1].result) == b'"done"'


async def test_failed_attempt_is_released_after_its_report(handlers: Handlers) -> None:
    """The job is `retrying` with a due time, the message becomes visible then, and a wake-up follows."""
    worker = FakeWorker(handlers.raising(Retry("later", after_s=7)))
    await worker.deliver()
    assert worker.calls == ["running", "retrying", "release 7"]
    assert worker.wakeups.delays_s == [7]
    due_at = worker.reporter.reports[-1].due_at
    assert due_at is not None
    assert abs(due_at - Timestamp.now().after(7)) < 5000


async def test_last_failed_attempt_is_poisoned_before_its_report(handlers: Handlers) -> None:
    """The message is on the poison queue before anybody sees the failure, so that it can be redriven."""
    worker = FakeWorker(handlers.raising(ValueError("bad"), max_attempts=1))
    text = worker.queue.text
    await worker.deliver()
    assert worker.calls == ["running", "poison", "failed", "delete"]
    assert worker.queue.poisoned == [text]


@pytest.mark.parametrize("show_errors", [False, True])
async def test_exception_is_shown_to_operators(handlers: Handlers, show_errors: bool) -> None:
    """Users see a general error in its place, unless SHOW_ERRORS is set."""
    worker = FakeWorker(handlers.raising(ValueError("bad")), show_errors=show_errors)
    await worker.deliver()
    report = worker.reporter.reports[-1]
    assert report.error == (JobError("ValueError", "bad") if show_errors else INTERNAL_ERROR)
    assert report.details is not None
    assert report.details.error == JobError("ValueError", "bad")
    assert (report.details.traceback or "").splitlines()[-1] == "ValueError: bad"


KEPT = {  # by `keep`: the reports whose details have the message
    "failed": {"retrying", "failed", "cancelled"},
    "always": {"retrying", "failed", "cancelled", "succeeded"},
    "never": set(),
}


@pytest.mark.parametrize("keep", KEPT)
async def test_message_is_kept(handlers: Handlers, keep: Any) -> None:
    """The report that ends an attempt has the message with its checkpoint, as `keep` decides."""

    @job("saves", keep=keep)
    async def saves(ctx: JobContext, _payload: Any) -> None:
        await ctx.checkpoint(7)
        raise ValueError("bad")

    payload = Json(b'{"a": 1}')
    cancelled = FakeWorker(handlers.waiting(keep=keep), payload=payload)
    cancelled.reporter.verdicts = [CANCEL_REQUESTED]
    workers = [
        FakeWorker(saves, payload=payload),
        FakeWorker(saves, payload=payload, max_attempts=1),
        FakeWorker(job("ok", keep=keep)(succeeds.handler), payload=payload),
        cancelled,
    ]
    kept: dict[str, Any] = {}
    for worker in workers:
        await worker.deliver()
        report = worker.reporter.reports[-1]
        if report.details is not None and report.details.message is not None:
            kept[report.status] = msgspec.json.decode(report.details.message)
    assert kept.keys() == KEPT[keep]
    assert {message["payload"]["a"] for message in kept.values()} <= {1}
    assert {kept[status]["checkpoint"] for status in kept.keys() & {"retrying", "failed"}} <= {7}


@pytest.mark.parametrize("in_thread", [False, True])
async def test_steps_are_reported(in_thread: bool) -> None:
    """The report of the outcome has the steps, of handlers in the event loop and in threads."""

    @job("steps")
    async def in_loop(ctx: JobContext, _payload: Any) -> None:
        async with ctx.step("fetch"):
            pass

    @job("steps")
    def threaded(ctx: JobContext, _payload: Any) -> None:
        with ctx.step("fetch"):
            pass

    worker = FakeWorker(threaded if in_thread else in_loop)
    await worker.deliver()
    details = worker.reporter.reports[-1].details
    assert details is not None
    (step,) = details.steps
    assert (step.name, details.message) == ("fetch", None)
    assert step.ended_at is not None
    assert step.started_at <= step.ended_at


async def test_success_has_no_details() -> None:
    """A job that succeeds costs nothing more."""
    worker = FakeWorker(succeeds)
    await worker.deliver()
    assert [report.details for report in worker.reporter.reports] == [None, None]


async def test_job_of_an_abandoned_handler_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is on the poison queue and gets no other attempt, although the thread runs on."""
    monkeypatch.setattr(runner, "ABANDON_AFTER_S", 0.05)
    finish_thread = threading.Event()

    @job("silent", timeout_s=0.5, max_attempts=5)
    def silent(_ctx: JobContext, _payload: Any) -> None:
        finish_thread.wait(PATIENCE_S)

    worker = FakeWorker(silent)
    text = worker.queue.text
    await worker.deliver()
    assert worker.calls == ["running", "poison", "failed", "delete"]
    assert worker.queue.poisoned == [text]
    error = worker.reporter.reports[-1].error
    assert error is not None
    assert (error.type, error.message) == ("Timeout", "The attempt took longer than 0.5 s and could not be stopped.")
    finish_thread.set()


@pytest.mark.parametrize("reason", ["finished", "duplicate"])
async def test_message_without_use_is_deleted(reason: str, handlers: Handlers) -> None:
    """At the start, during the attempt and at its ending: the worker stops and deletes the message."""
    for verdicts in ([], [{"accepted": True}]):
        worker = FakeWorker(succeeds)
        worker.reporter.verdicts = [*verdicts, rejected(reason)]
        await worker.deliver()
        assert worker.calls[-1] == "delete"
        assert len(worker.calls) == len(verdicts) + 2
    worker = FakeWorker(handlers.waiting())
    _, handling = await start(worker, handlers)
    worker.reporter.verdicts = [rejected(reason)]
    worker.reporter.heartbeat()
    await finish(handling)
    assert (worker.calls[-1], handlers.cancellations) == ("delete", ["lease"])


@pytest.mark.parametrize("reason", ["superseded", "stale"])
async def test_message_of_another_delivery_is_not_touched(reason: str, handlers: Handlers) -> None:
    """At the start, during the attempt and at its ending: the worker stops and leaves the message alone."""
    for verdicts in ([], [{"accepted": True}]):
        worker = FakeWorker(succeeds)
        worker.reporter.verdicts = [*verdicts, rejected(reason)]
        await worker.deliver()
        assert len(worker.calls) == len(verdicts) + 1
        assert worker.queue.text is not None
    worker = FakeWorker(handlers.waiting())
    _, handling = await start(worker, handlers)
    worker.reporter.verdicts = [rejected(reason)]
    worker.reporter.heartbeat()
    await finish(handling)
    assert (worker.calls[-1], handlers.cancellations) == ("running", ["lease"])


async def test_superseded_message_of_an_expired_job_is_deleted() -> None:
    """A notifier of version 0.1 answers `superseded` for an older generation, whose message would return for ever."""
    worker = FakeWorker(succeeds, expires_at=Timestamp.now().after(-1))
    worker.reporter.verdicts = [rejected("superseded")]
    await worker.deliver()
    assert worker.calls == ["failed", "delete"]


async def test_expired_job_fails_without_a_start(handlers: Handlers) -> None:
    """The handler is not called."""
    worker = FakeWorker(handlers.waiting(), expires_at=Timestamp.now().after(-1))
    await worker.deliver()
    assert (worker.calls, handlers.starts) == (["failed", "delete"], [])
    assert worker.reporter.reports[-1].error is not None
    assert worker.reporter.reports[-1].error.type == "Expired"


async def test_cancelled_job_does_not_start(handlers: Handlers) -> None:
    """If the verdict on the start requests the cancellation, the handler is not called."""
    worker = FakeWorker(handlers.waiting())
    worker.reporter.verdicts = [CANCEL_REQUESTED]
    await worker.deliver()
    assert (worker.calls, handlers.starts) == (["running", "cancelled", "delete"], [])


async def test_running_job_is_cancelled(handlers: Handlers) -> None:
    """The handler is cancelled with the reason `cancel`; then the job is `cancelled`."""
    worker = FakeWorker(handlers.waiting())
    _, handling = await start(worker, handlers)
    worker.reporter.verdicts = [CANCEL_REQUESTED]
    worker.reporter.heartbeat()
    await finish(handling)
    assert (worker.calls[-2:], handlers.cancellations) == (["cancelled", "delete"], ["cancel"])


async def test_cancel_during_a_failed_attempt_is_obeyed(handlers: Handlers) -> None:
    """If the verdict on `retrying` requests the cancellation, the job is `cancelled`, and its message is deleted."""
    worker = FakeWorker(handlers.raising(ValueError("bad")))
    worker.reporter.verdicts = [{"accepted": True}, CANCEL_REQUESTED]
    await worker.deliver()
    assert worker.calls == ["running", "retrying", "cancelled", "delete"]


@pytest.mark.parametrize("is_available", [True, False], ids=["handler just returned", "no verdict yet"])
async def test_stop_does_not_cut_an_ending_short(is_available: bool, handlers: Handlers) -> None:
    """A worker that stops after the handler has returned still reports the outcome and deletes the message."""

    @job("stops-its-worker")
    async def stops_its_worker(_ctx: JobContext, _payload: Any) -> str:
        asyncio.get_running_loop().call_soon(delivery.stop)
        worker.reporter.is_available = is_available
        handlers.started.set()
        return "done"

    worker = FakeWorker(stops_its_worker)
    delivery = worker.receive()
    handling = asyncio.create_task(delivery.handle())
    await asyncio.wait_for(handlers.started.wait(), PATIENCE_S)
    if not is_available:
        await run_ready_tasks()
        delivery.stop()
        await run_ready_tasks()
        assert not handling.done()
        worker.reporter.is_available = True
        worker.reporter.heartbeat()
    await finish(handling)
    assert worker.calls == ["running", "succeeded", "delete"]


async def test_stop_does_not_cut_the_poisoning_of_a_failed_job_short(handlers: Handlers) -> None:
    """While the poison queue is unavailable, a stop must not drop the error of the last attempt."""
    worker = FakeWorker(handlers.raising(Retry("bad"), max_attempts=1))
    worker.queue.errors["poison"] = [UNAVAILABLE] * 3
    delivery = worker.receive()
    worker.queue.on_poison = delivery.stop
    await finish(asyncio.create_task(delivery.handle()))
    assert worker.calls == ["running", "poison", "failed", "delete"]
    assert worker.reporter.reports[-1].error is not None
    assert worker.reporter.reports[-1].error.type == "Retry"


async def test_message_is_kept_until_it_is_on_the_poison_queue(handlers: Handlers) -> None:
    """If the poison queue is unavailable, the worker tries again, and reports the failure only afterwards."""
    worker = FakeWorker(handlers.raising(Retry("bad"), max_attempts=1))
    worker.queue.errors["poison"] = [UNAVAILABLE, UNAVAILABLE]
    await worker.deliver()
    assert worker.calls == ["running", "poison", "failed", "delete"]


async def test_lease_lost_during_poisoning_is_not_forgotten(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker has the message: this one reports and settles nothing."""
    worker = FakeWorker(handlers.raising(ValueError("bad"), max_attempts=1), lease_s=SHORT_LEASE_S)
    worker.queue.errors["poison"] = [UNAVAILABLE] * 1000
    worker.queue.errors["update"] = [UNAVAILABLE] * 1000
    monkeypatch.setattr(settlement, "MAX_POISON_BACKOFF_S", 0.01)
    await worker.deliver()
    assert worker.calls == ["running"]
    assert worker.queue.text is not None


async def test_message_that_is_not_deleted_is_left_to_the_next_delivery() -> None:
    """If the queue is unavailable after the ending, the next delivery is `finished` and deletes the message."""
    worker = FakeWorker(succeeds)
    worker.queue.errors["delete"] = [UNAVAILABLE]
    await worker.deliver()
    worker.reporter.verdicts = [rejected("finished")]
    await worker.deliver()
    assert worker.calls == ["running", "succeeded", "running", "delete"]


async def test_refused_ending_is_kept_on_the_poison_queue() -> None:
    """If the notifier rejects even the reduced report, the message is copied to the poison queue, then deleted."""
    worker = FakeWorker(succeeds)
    worker.reporter.verdicts = [{"accepted": True}, "invalid", "invalid"]
    worker.queue.errors["poison"] = [UNAVAILABLE]
    await worker.deliver()
    assert worker.calls == ["running", "succeeded", "failed", "poison", "delete"]


async def fail_renewal(*_: Any) -> None:
    """Fail as a bug would."""
    raise TypeError("a bug")


async def test_renewal_with_a_bug_is_a_lost_lease(handlers: Handlers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler is cancelled with `lease`, nothing is settled, and the log names the type and the place."""
    monkeypatch.setattr(Lease, "_renew", fail_renewal)
    worker = FakeWorker(handlers.waiting(), lease_s=SHORT_LEASE_S)
    with capture_logs() as logs:
        await worker.deliver()
    assert (worker.calls, handlers.cancellations) == (["running"], ["lease"])
    (lost,) = [entry for entry in logs if entry["event"] == "lease_lost"]
    assert (lost["log_level"], lost["error"]) == ("error", "TypeError")
    assert "test_delivery.py" in lost["where"][-1]


@pytest.mark.parametrize("is_started", [True, False], ids=["running", "before its first step"])
async def test_cancelled_renewal_is_a_lost_lease(is_started: bool, handlers: Handlers) -> None:
    """A handler that cancels all tasks, for example, also cancels the renewal of other jobs."""
    worker = FakeWorker(handlers.waiting())
    before = asyncio.all_tasks()
    handling = asyncio.create_task(worker.receive().handle())
    if is_started:
        await asyncio.wait_for(handlers.started.wait(), PATIENCE_S)
    else:
        await asyncio.sleep(0)
    (renewal,) = [task for task in asyncio.all_tasks() - before if "renew" in repr(task.get_coro())]
    renewal.cancel()
    with capture_logs() as logs:
        await finish(handling)
    assert worker.calls in (["running"], [])
    assert handlers.cancellations == (["lease"] if is_started else [])
    assert [entry["error"] for entry in logs if entry["event"] == "lease_lost"] == ["CancelledError"]


async def test_lease_lost_while_the_handler_cleans_up_is_not_forgotten(handlers: Handlers) -> None:
    """After a cancellation the handler may take longer than the lease; then nothing is reported or settled."""

    @job("slow-cleanup")
    async def slow_cleanup(_ctx: JobContext, _payload: Any) -> None:
        handlers.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            worker.queue.errors["update"] = [UNAVAILABLE] * 1000
            await asyncio.sleep(2 * SHORT_LEASE_S)

    worker = FakeWorker(slow_cleanup, lease_s=SHORT_LEASE_S)
    _, handling = await start(worker, handlers)
    worker.reporter.verdicts = [CANCEL_REQUESTED]
    worker.reporter.heartbeat()
    await finish(handling)
    assert set(worker.calls) == {"running"}


@pytest.mark.parametrize("lost_by", ["superseded", "duplicate", "finished", "renewal"])
async def test_handler_that_swallows_a_cancel_stops_when_it_loses_its_job(lost_by: str, handlers: Handlers) -> None:
    """A client's cancellation comes first; when another delivery has the job, the handler is cancelled again."""

    @job("swallows")
    async def swallows(_ctx: JobContext, _payload: Any) -> None:
        for _ in range(2):
            try:
                handlers.started.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                handlers.cancellations.append(*error.args)

    worker = FakeWorker(swallows, lease_s=2 * SHORT_LEASE_S if lost_by == "renewal" else 60)
    worker.deps.runner = runner.Runner(worker.deps.runner._process_pool, 0.01)
    _, handling = await start(worker, handlers)
    worker.reporter.verdicts = [CANCEL_REQUESTED]
    worker.reporter.heartbeat()
    await asyncio.wait_for(handlers.started.wait(), PATIENCE_S)
    if lost_by == "renewal":
        worker.queue.errors["update"] = [UNAVAILABLE] * 1000
    else:
        worker.reporter.verdicts = [rejected(lost_by)]
        worker.reporter.heartbeat()
    await finish(handling)
    assert handlers.cancellations == ["cancel", "lease"]


class SlowPayload(Struct):
    """A payload whose decoding takes longer than the lease."""

    value: int = 0

    def __post_init__(self) -> None:
        time.sleep(2 * SHORT_LEASE_S)


@pytest.mark.parametrize("is_async", [True, False], ids=["loop", "thread"])
@pytest.mark.parametrize("blocked_at", ["verdict", "payload"])
async def test_handler_does_not_start_on_an_expired_lease(is_async: bool, blocked_at: str, handlers: Handlers) -> None:
    """If the event loop was blocked, the lease may be over before the handler starts: it is not called at all."""
    payload_type: Any = SlowPayload if blocked_at == "payload" else Any

    async def in_loop(ctx: JobContext, _payload: Any) -> None:
        handlers.starts.append(ctx.attempt)

    def in_thread(ctx: JobContext, _payload: Any) -> None:
        handlers.starts.append(ctx.attempt)

    in_loop.__annotations__["_payload"] = in_thread.__annotations__["_payload"] = payload_type
    worker = FakeWorker(job("starts-late")(in_loop if is_async else in_thread), lease_s=SHORT_LEASE_S)
    if blocked_at == "verdict":
        worker.reporter.on_report = lambda _: time.sleep(2 * SHORT_LEASE_S)
    with capture_logs() as logs:
        await worker.deliver()
    assert (handlers.starts, worker.calls) == ([], ["running"])
    assert [entry["event"] for entry in logs].count("lease_lost") == 1


async def test_release_keeps_the_progress(handlers: Handlers) -> None:
    """A stopping worker writes progress and release into the message; the next delivery starts from there."""
    worker = FakeWorker(handlers.waiting())
    delivery, handling = await start(worker, handlers)
    delivery.stop()
    await finish(handling)
    assert worker.calls[-2:] == ["release 0", "queued"]
    assert worker.wakeups.delays_s == [0]
    fields = worker.queue.fields()
    assert (fields["releases"], fields["drains"], fields["progress"]["current"]) == (1, 1, 40)
    _, handling = await start(worker, handlers)
    handling.cancel()
    await asyncio.wait({handling})
    queued, running = worker.reporter.reports[-2:]
    assert (queued.status, running.status, running.attempt, running.delivery) == ("queued", "running", 1, 2)
    assert queued.progress == running.progress == Progress(40, 100)


async def test_progress_does_not_go_back_after_a_release(handlers: Handlers) -> None:
    """The released attempt goes on from 95 %, although its handler reports less or nothing definite at first."""

    @job("begins-again")
    async def begins_again(ctx: JobContext, _payload: Any) -> None:
        for current, total in ((0, None), (10, 100), (96, 100)):
            ctx.progress(current, total)
            worker.reporter.heartbeat()

    worker = FakeWorker(
        begins_again, releases=1, drains=1, progress=Progress(95, 100, "%", "Almost"), progress_attempt=1
    )
    worker.queue.delivery = 1
    await worker.deliver()
    percents = [report.progress and report.progress.percent for report in worker.reporter.reports]
    assert percents == [95, 95, 95, 96, 96]


async def test_new_attempt_starts_without_progress(handlers: Handlers) -> None:
    """If the worker that continued a released attempt is killed, the next delivery is a new attempt."""
    worker = FakeWorker(succeeds, releases=1, drains=1, progress=Progress(95, 100), progress_attempt=1)
    worker.queue.delivery = 2
    await worker.deliver()
    assert [(report.attempt, report.progress) for report in worker.reporter.reports] == [(2, None)] * 2


async def test_unknown_fields_survive_a_release_and_a_checkpoint(handlers: Handlers) -> None:
    """A worker keeps the labels, and the fields of newer versions, byte for byte."""

    @job("saves")
    async def saves(ctx: JobContext, _payload: Any) -> None:
        await ctx.checkpoint({"done": 3})
        handlers.started.set()
        await asyncio.Event().wait()

    labels = '{"name":"Résumé","tags":["a"],"weight":[1.50]}'
    worker = FakeWorker(saves, f'{{"id":"{uuid4()}","kind":"saves","payload":{{"n":1.0}},"labels":{labels}}}')
    delivery, handling = await start(worker, handlers)
    delivery.stop()
    await finish(handling)
    assert worker.queue.text is not None
    message = decode_message(worker.queue.text)
    assert (message.releases, message.drains, bytes(message.checkpoint)) == (1, 1, b'{"done":3}')
    assert worker.queue.fields()["labels"] == {"name": "Résumé", "tags": ["a"], "weight": [1.5]}
    assert labels.encode() in message_json(worker.queue.text)


async def test_message_without_room_for_progress_is_released_unchanged(handlers: Handlers) -> None:
    """The release then costs an attempt."""
    text = f'{{"id":"{uuid4()}","kind":"waits","other":"{"x" * 49_000}"}}'
    worker = FakeWorker(handlers.waiting(), text)
    delivery, handling = await start(worker, handlers)
    delivery.stop()
    await finish(handling)
    assert len(text) < MAX_MESSAGE_BYTES
    assert (worker.calls[-2:], worker.queue.text) == (["release 0", "queued"], text)


async def test_unreadable_message_is_released_unchanged() -> None:
    """It must reach the poison queue as it was sent, even if the worker stops before."""
    text = f'{{"id":"{uuid4()}","kind":"succeeds","releases":-1}}'
    worker = FakeWorker(succeeds, text)
    worker.reporter.is_available = False
    delivery = worker.receive()
    handling = asyncio.create_task(delivery.handle())
    await run_ready_tasks()
    delivery.stop()
    worker.reporter.is_available = True
    await finish(handling)
    assert (worker.calls, worker.queue.text) == (["release 0", "queued"], text)
    await worker.deliver()
    assert worker.calls[2:] == ["running", "poison", "failed", "delete"]
    assert worker.queue.poisoned == [text]


async def test_handler_that_stops_its_worker_ends_after_its_attempts(handlers: Handlers) -> None:
    """The first releases cost no attempt; later ones do, so that such a job cannot stop workers for ever."""
    worker = FakeWorker(handlers.waiting(max_attempts=3))
    while worker.queue.text is not None:
        delivery = worker.receive()
        handling = asyncio.create_task(delivery.handle())
        await asyncio.wait({handling, asyncio.create_task(handlers.started.wait())}, return_when="FIRST_COMPLETED")
        handlers.started.clear()
        delivery.stop()
        await finish(handling)
    assert handlers.starts == [1] * (MAX_RELEASES + 1) + [2, 3]
    assert worker.reporter.reports[-1].error is not None
    assert worker.reporter.reports[-1].error.type == "AttemptsUsedUp"


async def test_rejected_report_of_a_release_ends_only_its_delivery(handlers: Handlers) -> None:
    """The message is released before; a wake-up follows as usual."""
    worker = FakeWorker(handlers.waiting())
    delivery, handling = await start(worker, handlers)
    worker.reporter.on_report = lambda report: (
        worker.reporter.verdicts.append("invalid") if report.status == "queued" else None
    )
    delivery.stop()
    await finish(handling)
    assert (worker.calls[-2:], worker.wakeups.delays_s) == (["release 0", "queued"], [0])


async def test_progress_after_the_release_is_ignored(handlers: Handlers) -> None:
    """A task that the handler has leaked cannot raise the shown progress above the one in the message."""

    @job("leaks")
    async def leaks(ctx: JobContext, _payload: Any) -> None:
        ctx.progress(40, 100)
        worker.queue.on_release = lambda: ctx.progress(70, 100)
        handlers.started.set()
        await asyncio.Event().wait()

    worker = FakeWorker(leaks)
    delivery, handling = await start(worker, handlers)
    delivery.stop()
    await finish(handling)
    queued = worker.reporter.reports[-1]
    assert (queued.status, queued.progress and queued.progress.current) == (
        "queued",
        worker.queue.fields()["progress"]["current"],
    )


async def test_every_end_is_followed_by_a_job(handlers: Handlers) -> None:
    """It is submitted after the verdict on the end, after the copy on the poison queue, and before the deletion."""
    ended, if_ended = ["follow-up mail", "delete"], ["follow-up mail, if ended", "delete"]
    expired: Any = {"expires_at": Timestamp.now().after(-1)}
    failing = handlers.raising(ValueError("bug"))
    cases: list[tuple[FakeWorker, list[Any], list[str]]] = [
        (FakeWorker(succeeds, on_end="mail"), [], ["running", "succeeded", *ended]),
        (FakeWorker(failing, on_end="mail", max_attempts=1), [], ["running", "poison", "failed", *ended]),
        (FakeWorker(succeeds, on_end="mail", **expired), [], ["failed", *ended]),
        (FakeWorker(succeeds, on_end="mail"), [CANCEL_REQUESTED], ["running", "cancelled", *ended]),
        (FakeWorker(succeeds, on_end="mail"), [rejected("finished")], ["running", *if_ended]),
        (FakeWorker(succeeds, on_end="mail", **expired), [rejected("finished")], ["failed", *if_ended]),
    ]
    for worker, verdicts, calls in cases:
        worker.reporter.verdicts = verdicts
        await worker.deliver()
        assert worker.calls == calls


async def test_retry_and_refused_end_are_followed_by_no_job(handlers: Handlers) -> None:
    """The job goes on, or is kept on the poison queue, from which an operator can redrive it."""
    worker = FakeWorker(handlers.raising(Retry("later", after_s=1)), on_end="mail")
    await worker.deliver()
    assert worker.calls == ["running", "retrying", "release 1"]
    worker = FakeWorker(succeeds, on_end="mail")
    worker.reporter.verdicts = [ACCEPTED, "invalid", "invalid"]
    await worker.deliver()
    assert worker.calls == ["running", "succeeded", "failed", "poison", "delete"]


async def test_follow_up_job_is_submitted_by_a_later_delivery() -> None:
    """Without the submitter the message comes back, and the worker that is answered `finished` submits the job."""
    worker = FakeWorker(succeeds, on_end="mail")
    worker.follow_ups.accepting = False
    await worker.deliver()
    assert worker.calls[-2] == "follow-up mail"
    assert worker.calls.pop().startswith("release ")
    worker.follow_ups.accepting, worker.reporter.verdicts = True, [rejected("finished")]
    await worker.deliver()
    assert worker.calls[-3:] == ["running", "follow-up mail, if ended", "delete"]


async def test_message_without_a_job_is_moved_to_the_poison_queue() -> None:
    """Nothing can be reported; if the poison queue is unavailable, the worker tries again."""
    worker = FakeWorker(succeeds, "no JSON")
    worker.queue.errors["poison"] = [UNAVAILABLE]
    await worker.deliver()
    assert (worker.calls, worker.queue.poisoned) == (["poison", "delete"], ["no JSON"])


@pytest.mark.parametrize(
    ("text", "encoding"),
    [('{"id":7}', "plain"), ("eyJpZCI6N30", "base64"), ("helloyou", "neither"), ("\ufeff[]", "plain")],
)
async def test_log_names_the_encoding_of_a_poisoned_message(text: str, encoding: str) -> None:
    """An operator can see which sender wrote it."""
    worker = FakeWorker(succeeds, text)
    with capture_logs() as lines:
        await worker.deliver()
    [poisoned] = [line for line in lines if line["event"] == "message_poisoned"]
    assert (poisoned["encoding"], poisoned["reason"]) == (encoding, "unreadable")
    assert worker.queue.poisoned == [text]


@pytest.mark.parametrize("readers", ["details", "watchers"])
async def test_output_of_a_handler_is_its_log(readers: Any) -> None:
    """The last append follows the report of the ending, and does not wait for the queue. The kind decides who reads."""

    @job("logs", log=readers)
    def logs(ctx: JobContext, _payload: Any) -> None:
        ctx.log.error("from a thread")

    worker = FakeWorker(logs)
    worker.reporter.on_report = lambda report: (
        texts.append(worker.logs.text()) if report.status == "succeeded" else None
    )
    texts: list[str] = []
    with capture_output():
        await worker.deliver()
    assert worker.calls == ["running", "succeeded", "log", "delete"]
    assert texts[0].endswith(" ERROR from a thread\n")
    assert worker.logs.log is not None
    last = worker.logs.log.next_append(0)
    assert last is not None
    assert (last.text, last.start, last.watchers) == ("", len(texts[0]), readers == "watchers")


@pytest.mark.parametrize("end", ["released", "retried", "ended"])
async def test_log_of_a_delivery_ends_before_the_message_is_settled(handlers: Handlers, end: str) -> None:
    """If another delivery follows, which may start at once, the end of the log is urgent."""
    handler = {"released": handlers.waiting(), "retried": handlers.raising(Retry("later", after_s=0))}.get(
        end, succeeds
    )
    worker = FakeWorker(handler)

    def write_a_line(_report: object) -> None:
        assert worker.logs.log is not None
        worker.logs.log.write("a line\n")

    worker.reporter.on_report = write_a_line
    delivery = worker.receive()
    handling = asyncio.create_task(delivery.handle())
    if end == "released":
        await asyncio.wait_for(handlers.started.wait(), PATIENCE_S)
        delivery.stop()
    await finish(handling)
    assert worker.logs.log is not None
    assert worker.logs.log.is_urgent == (end != "ended")
    assert worker.calls.index("log") < worker.calls.index("delete" if end == "ended" else "release 0")
