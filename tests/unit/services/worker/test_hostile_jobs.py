"""Hostile jobs: nothing that they raise, log or are given is in the public part of a report without SHOW_ERRORS."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace

from headway import Fail, Job, JobContext, Retry, job
from headway.contracts import JobReport, Json, encode
from headway.labels import Labels
from headway.message_codec import message_json
from services.runtime import redaction
from services.runtime.redaction import HIDDEN
from services.worker.execution.process_pool import ProcessPool
from services.worker.execution.runner import Runner
from services.worker.logs.capture import capture_output
from services.worker.registry import load_jobs
from tests.unit.services.worker.execution import process_jobs
from tests.unit.services.worker.fake_worker import CANCEL_REQUESTED, PROCESS_MEMORY_BYTES, FakeWorker

SECRET = "sw0rd-fish"
PAYLOAD = Json(f'"{SECRET}"'.encode())
LABELS = Labels(owner=SECRET, tags=(SECRET, f"tag:{SECRET}"))


def raise_chained() -> None:
    """Raise an exception whose cause has a note."""
    cause = KeyError(SECRET)
    cause.add_note(SECRET)
    raise RuntimeError("the shop failed") from cause


def raise_for_users() -> None:
    """Raise an exception for users that another one caused."""
    try:
        raise_chained()
    except RuntimeError as error:
        raise Fail("The shop is closed.") from error


def raise_group() -> None:
    """Raise a group with an exception for users."""
    raise ExceptionGroup(SECRET, [ValueError(SECRET), Retry("The shop is closed.", after_s=1)])


def raise_named() -> None:
    """Raise an exception whose type has the name of a secret."""
    raise type(SECRET, (Exception,), {})("failed")


def raise_unreadable() -> None:
    """Raise an exception that fails when it is printed."""

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise ValueError(SECRET)

    raise Unprintable


def return_object() -> Any:
    """Return an object of a type that cannot be encoded."""
    return type(SECRET, (), {})()


def return_failing() -> Any:
    """Return a value that raises when it is encoded."""

    class Failing(Struct):
        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            raise ValueError(SECRET)

    return {"items": [Failing(), {1: SECRET, "1": object()}]}


def exit_program() -> None:
    """Exit."""
    sys.exit(SECRET)


def interrupt() -> None:
    """Raise what Ctrl-C raises."""
    raise KeyboardInterrupt(SECRET)


def assert_false() -> None:
    """Fail an assertion about the payload."""
    assert len(SECRET) == 0, SECRET


ACTIONS: list[Callable[[], Any]] = [
    raise_chained,
    raise_for_users,
    raise_group,
    raise_named,
    raise_unreadable,
    return_object,
    return_failing,
    exit_program,
    interrupt,
    assert_false,
]


class Picky(Struct):
    """A payload type with a bug."""

    name: str

    def __post_init__(self) -> None:
        """Quote the payload."""
        raise KeyError(self.name)


@job("picky")
async def picky(_ctx: JobContext, payload: Picky) -> None:
    """Never run."""


@job("quotes-its-payload", max_attempts=1, timeout_s=0.01)
async def quotes_its_payload(_ctx: JobContext, payload: str) -> None:
    """Raise another exception after the time limit."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise OSError(payload) from None


def hostile_job(action: Callable[[], Any], *, in_thread: bool, max_attempts: int) -> Job[Any, Any]:
    """Return a job that logs and prints its payload and then acts."""

    def act(ctx: JobContext, payload: str) -> Any:
        ctx.log.warning(payload)
        logging.getLogger("shop").error("refused %s", payload, extra={"payload": payload})
        print(payload)  # noqa: T201
        ctx.progress(1, 2, "Working")
        return action()

    async def act_in_loop(ctx: JobContext, payload: str) -> Any:
        return act(ctx, payload)

    return job("hostile", max_attempts=max_attempts)(act if in_thread else act_in_loop)


def public_part(report: JobReport) -> str:
    """Return what users may see of a report: all but the fields that the record hides."""
    return encode(replace(report, details=None, labels=None, worker=None)).decode()


def hidden_part(report: JobReport) -> str:
    """Return the details of a report."""
    return encode(report.details).decode()


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[ProcessPool]:
    """Open a process pool for this module."""
    async with ProcessPool.open(PROCESS_MEMORY_BYTES) as pool:
        yield pool


@pytest.mark.parametrize("max_attempts", [1, 5])
@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
async def test_reports_show_nothing_of_a_hostile_job(
    action: Callable[[], Any], in_thread: bool, max_attempts: int
) -> None:
    """Neither exceptions, labels and payload nor log lines are public; the details have the message of a failure."""
    hostile = hostile_job(action, in_thread=in_thread, max_attempts=max_attempts)
    worker = FakeWorker(hostile, payload=PAYLOAD, labels=LABELS)
    await worker.deliver()
    assert len(worker.reporter.reports) >= 2
    assert [report for report in worker.reporter.reports if SECRET in public_part(report)] == []
    end = worker.reporter.reports[-1]
    assert (SECRET in hidden_part(end)) == (end.status != "succeeded")
    if action in (raise_for_users, raise_group):
        assert end.error is not None
        assert end.error.message == "The shop is closed."


@pytest.mark.parametrize("kind", ["fails", "exits", "hangs"])
async def test_reports_show_nothing_of_a_hostile_process(pool: ProcessPool, kind: str) -> None:
    """An exception in a process, a payload of the wrong type and a file that cannot be written are not shown."""
    worker = FakeWorker(load_jobs([process_jobs.__name__])[kind], payload=PAYLOAD, labels=LABELS, timeout_s=5)
    if kind == "hangs":
        worker = FakeWorker(worker.deps.registry[kind], payload=Json(f'"/no/{SECRET}/file"'.encode()), labels=LABELS)
    worker.deps.runner = Runner(pool)
    await worker.deliver()
    assert [report for report in worker.reporter.reports if SECRET in public_part(report)] == []
    assert SECRET in hidden_part(worker.reporter.reports[-1])


@pytest.mark.parametrize("tested", [picky, quotes_its_payload], ids=lambda tested: tested.kind)
async def test_reports_show_nothing_of_what_surrounds_the_handler(tested: Job[Any, Any]) -> None:
    """A bug of the payload's type and an exception after the time limit are not shown either."""
    payload = Json(f'{{"name": "{SECRET}"}}'.encode()) if tested is picky else PAYLOAD
    worker = FakeWorker(tested, payload=payload, labels=LABELS)
    await worker.deliver()
    assert worker.reporter.statuses()[-1] == "failed"
    assert [report for report in worker.reporter.reports if SECRET in public_part(report)] == []


async def test_cancelled_job_shows_nothing() -> None:
    """A cancelled job keeps its message for operators."""
    worker = FakeWorker(picky, payload=PAYLOAD, labels=LABELS)
    worker.reporter.verdicts = [CANCEL_REQUESTED]
    await worker.deliver()
    assert worker.reporter.statuses() == ["running", "cancelled"]
    assert [report for report in worker.reporter.reports if SECRET in public_part(report)] == []
    assert SECRET in hidden_part(worker.reporter.reports[-1])


@pytest.fixture
def _secret_in_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the secret into a variable of the environment."""
    monkeypatch.setenv("SHOP_TOKEN", SECRET)
    redaction._redactor.cache_clear()
    yield
    redaction._redactor.cache_clear()


@pytest.mark.usefixtures("_secret_in_environment")
@pytest.mark.parametrize("action", [raise_chained, raise_group, assert_false], ids=lambda action: action.__name__)
async def test_operators_see_no_secret_of_the_environment(action: Callable[[], Any]) -> None:
    """It is hidden in the error, in the traceback and in the log; the message is kept as it is."""
    worker = FakeWorker(hostile_job(action, in_thread=False, max_attempts=1), payload=PAYLOAD, show_errors=True)
    with capture_output():
        await worker.deliver()
    end = worker.reporter.reports[-1]
    assert end.details is not None
    assert SECRET in message_json(end.details.message or "").decode()
    log = worker.logs.text()
    shown = encode([end.error, replace(end.details, message=None), log]).decode()
    assert SECRET not in shown
    assert HIDDEN in (end.details.traceback or "")
    assert log.count(HIDDEN) >= 3  # logged twice and printed once


async def test_errors_are_shown_with_show_errors() -> None:
    """With the setting, the same check finds the exceptions."""
    hostile = hostile_job(interrupt, in_thread=False, max_attempts=1)
    worker = FakeWorker(hostile, payload=PAYLOAD, labels=LABELS, show_errors=True)
    await worker.deliver()
    assert SECRET in public_part(worker.reporter.reports[-1])
