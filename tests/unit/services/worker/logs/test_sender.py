"""The sender of logs against a fake notifier over HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec.structs import replace

from headway.contracts import decode, encode
from headway.details import MAX_APPENDS_BYTES, LogAppend
from services.runtime.errors import problem_response
from services.runtime.settings import ReloadingFile, read_keys
from services.worker.logs import sender as module
from services.worker.logs.job_log import JobLog
from services.worker.logs.sender import LogSender
from services.worker.metrics import LOG_BYTES_LEFT_OUT, LOG_BYTES_SENT
from tests.unit.services.worker.logs.test_job_log import REPORT
from tests.waiting import PATIENCE_S, wait_until

KEY = "the-report-key"


class FakeNotifier:
    """A notifier that keeps what it accepts; it answers the next requests with these statuses first.

    Attributes:
        requests: the authorization and the appends of each request.
        statuses: a proxy answers the next requests with these.
        problem: the notifier rejects each request with an append of these jobs, with this status and code.
        reason: it rejects each append of these jobs with this reason.
    """

    def __init__(self) -> None:
        self.url = ""
        self.statuses: list[int] = []
        self.requests: list[tuple[str | None, list[LogAppend]]] = []
        self.texts: dict[Any, str] = {}
        self.problem = 422, "invalid"
        self.invalid: set[Any] = set()
        self.reason = "superseded"
        self.rejected: set[Any] = set()
        self.largest_bytes = 0

    async def logs(self, request: web.Request) -> web.Response:
        """Serve `POST /logs`."""
        body = await request.read()
        self.largest_bytes = max(self.largest_bytes, len(body))
        appends = decode(body, list[LogAppend])
        self.requests.append((request.headers.get("Authorization"), appends))
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), headers={"Location": "/elsewhere"})
        if self.invalid.intersection(append.job_id for append in appends):
            return problem_response(*self.problem, "no detail")
        return web.Response(body=encode([*map(self._append, appends)]), content_type="application/json")

    def _append(self, append: LogAppend) -> dict[str, Any]:
        if append.job_id in self.rejected:
            return {"job_id": append.job_id, "accepted": False, "reason": self.reason}
        text = self.texts.get(append.job_id, "")
        assert append.start >= len(text.encode()), "one without an answer may come again, an answered one not"
        self.texts[append.job_id] = text + append.text
        return {"job_id": append.job_id, "accepted": True}


@pytest.fixture
async def notifier() -> AsyncIterator[FakeNotifier]:
    """Run a fake notifier."""
    fake, app = FakeNotifier(), web.Application(client_max_size=1 << 25)
    app.add_routes([web.post("/logs", fake.logs)])
    async with TestServer(app) as server:
        fake.url = str(server.make_url(""))
        yield fake


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GATHER_S", "INTERVAL_S", "BACKOFF_S", "MAX_BACKOFF_S"):
        monkeypatch.setattr(module, name, 0.01)


@asynccontextmanager
async def running(url: str, folder: Path) -> AsyncIterator[LogSender]:
    """Run a sender."""
    (folder / "report.key").write_text(KEY)
    async with LogSender.connect(url, ReloadingFile(folder / "report.key", read_keys)) as sender:
        task = asyncio.create_task(sender.run())
        try:
            yield sender
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def opened(sender: LogSender) -> tuple[Any, JobLog]:
    """Open the log of a new job; return the job's id and the log."""
    report = replace(REPORT, job_id=uuid4())
    return report.job_id, sender.open(report, watchers=False)


async def test_logs_of_all_jobs_share_a_request(notifier: FakeNotifier, tmp_path: Path) -> None:
    """The request has the report key. A sender with nothing to send sends nothing."""
    sent = LOG_BYTES_SENT._value.get()
    async with running(notifier.url, tmp_path) as sender:
        (first, one), (second, two) = opened(sender), opened(sender)
        opened(sender)
        one.write("one\n")
        threading.Thread(target=two.write, args=("two\n",)).start()
        await wait_until(lambda: len(notifier.texts) == 2)
        one.close(has_ended=True)
        two.close(has_ended=False)
        await wait_until(lambda: notifier.requests[-1][1][-1].text == "")
        await wait_until(lambda: not sender._logs)
    assert notifier.texts == {first: "one\n", second: "two\n"}
    assert {key for key, _ in notifier.requests} == {f"Bearer {KEY}"}
    assert len(notifier.requests) <= 3
    assert LOG_BYTES_SENT._value.get() - sent == len("one\ntwo\n")


@pytest.mark.parametrize("status", [302, 400, 401, 413, 422, 500, 502, 503])
async def test_append_is_sent_again_after_a_failure(notifier: FakeNotifier, tmp_path: Path, status: int) -> None:
    """The same one, with the same offset, until the notifier answers, not a proxy; a redirect is not followed."""
    notifier.statuses = [status, status]
    async with running(notifier.url, tmp_path) as sender:
        job_id, job_log = opened(sender)
        job_log.write("one\n")
        await wait_until(lambda: job_id in notifier.texts and not sender._logs)  # without an answer, it comes once more
    assert [appends[0].start for _, appends in notifier.requests] == [0, 0, 0]
    assert notifier.texts[job_id] == "one\n"


@pytest.mark.parametrize("problem", [(400, "malformed"), (413, "too_large"), (422, "invalid"), None])
async def test_refused_append_is_dropped(
    notifier: FakeNotifier, tmp_path: Path, problem: tuple[int, str] | None
) -> None:
    """The next one begins behind it, and its bytes are counted."""
    left_out = LOG_BYTES_LEFT_OUT._value.get()
    notifier.problem = problem or notifier.problem
    async with running(notifier.url, tmp_path) as sender:
        job_id, job_log = opened(sender)
        (notifier.rejected if problem is None else notifier.invalid).add(job_id)
        job_log.write("one\n")
        await wait_until(lambda: len(notifier.requests) == 1 and not sender._logs)
        assert LOG_BYTES_LEFT_OUT._value.get() - left_out == 4
        job_log.write("two\n")
        await wait_until(lambda: len(notifier.requests) == 2)
    assert [(append.start, append.text) for append in notifier.requests[1][1]] == [(4, "two\n")]


async def test_one_invalid_append_costs_the_others_nothing(notifier: FakeNotifier, tmp_path: Path) -> None:
    """If the notifier refuses a request, its halves are sent, until the invalid append is alone."""
    left_out = LOG_BYTES_LEFT_OUT._value.get()
    async with running(notifier.url, tmp_path) as sender:
        logs = dict(opened(sender) for _ in range(20))
        invalid = next(iter(logs))
        notifier.invalid.add(invalid)
        for job_log in logs.values():
            job_log.write("one\n")
        await wait_until(lambda: len(notifier.texts) == 19 and not sender._logs)
    assert invalid not in notifier.texts
    assert LOG_BYTES_LEFT_OUT._value.get() - left_out == len("one\n")


async def test_unavailable_log_does_not_hold_up_the_others(
    notifier: FakeNotifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a part of Redis is away, its logs are sent again, and the other logs go on. The exit waits for none."""
    monkeypatch.setattr(module, "EXIT_TIMEOUT_S", PATIENCE_S)
    notifier.reason = "unavailable"
    async with running(notifier.url, tmp_path) as sender:
        (away, first), (present, second) = opened(sender), opened(sender)
        notifier.rejected.add(away)
        first.write("one\n")
        second.write("one\n")
        await wait_until(lambda: len(notifier.requests) >= 3)
        second.write("two\n")
        await wait_until(lambda: notifier.texts == {present: "one\ntwo\n"})
        notifier.rejected.clear()
        await wait_until(lambda: notifier.texts.get(away) == "one\n")
        notifier.rejected.add(away)
        first.write("two\n")
        count = len(notifier.requests)
        await wait_until(lambda: len(notifier.requests) > count)
        exits_at = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - exits_at < PATIENCE_S


@pytest.mark.parametrize("is_available", [True, False])
async def test_requests_are_a_second_apart(
    notifier: FakeNotifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_available: bool
) -> None:
    """On average, whatever ends: an urgent request is early, but the next ones are later, also during a failure."""
    monkeypatch.setattr(module, "INTERVAL_S", 0.05)
    monkeypatch.setattr(module, "MAX_EARLY_S", 0.1)
    notifier.statuses = [] if is_available else [503] * 1000
    started_at = asyncio.get_running_loop().time()
    async with running(notifier.url, tmp_path) as sender:
        for number in range(50):
            _, job_log = opened(sender)
            job_log.write("one\n")
            job_log.close(has_ended=number % 2 == 0)
            await asyncio.sleep(0.01)
        duration_s = asyncio.get_running_loop().time() - started_at
        assert 3 <= len(notifier.requests) <= duration_s / 0.05 + 3


async def test_older_notifier_is_left_alone(
    notifier: FakeNotifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 404 the sender asks again a minute later, and jobs run on."""
    monkeypatch.setattr(module, "UNSUPPORTED_PAUSE_S", 1)
    notifier.statuses = [404]
    async with running(notifier.url, tmp_path) as sender:
        job_id, job_log = opened(sender)
        job_log.write("one\n")
        await wait_until(lambda: len(notifier.requests) == 1)
        for _ in range(10):
            await asyncio.sleep(0)
            job_log.write("two\n")
        assert len(notifier.requests) == 1
        await wait_until(lambda: notifier.texts.get(job_id) == "one\n" + "two\n" * 10)


async def test_other_tasks_run_between_two_appends(notifier: FakeNotifier, tmp_path: Path) -> None:
    """Many logs do not block the event loop, and with it the reports, all at once."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    (tmp_path / "report.key").write_text(KEY)
    async with LogSender.connect(notifier.url, ReloadingFile(tmp_path / "report.key", read_keys)) as sender:
        for _ in range(10):
            opened(sender)[1].write("a line\n")
        await wait_until(lambda: len(sender._logs) == 10)
        other = asyncio.create_task(take_turns())
        assert len(await sender._next_appends(time.monotonic())) == 10
        other.cancel()
    assert turns >= 9


async def test_rest_is_sent_on_exit(notifier: FakeNotifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that stops sends the last lines of its jobs at once."""
    monkeypatch.setattr(module, "GATHER_S", 60)
    async with running(notifier.url, tmp_path) as sender:
        job_id, job_log = opened(sender)
        job_log.write("one\n")
        job_log.close(has_ended=True)
        await wait_until(lambda: bool(sender._logs))
    assert notifier.texts == {job_id: "one\n"}


async def test_rest_of_a_released_job_is_sent_at_once(
    notifier: FakeNotifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reaches the notifier before the next delivery starts, after which it would be refused."""
    monkeypatch.setattr(module, "INTERVAL_S", 10 * PATIENCE_S)
    monkeypatch.setattr(module, "MAX_EARLY_S", 10 * PATIENCE_S)
    async with running(notifier.url, tmp_path) as sender:
        job_id, job_log = opened(sender)
        job_log.write("one\n")
        await wait_until(lambda: job_id in notifier.texts)
        job_log.write("two\n")
        job_log.close(has_ended=False)
        await wait_until(lambda: notifier.texts[job_id] == "one\ntwo\n")


async def test_notifier_that_is_away_does_not_delay_the_exit(tmp_path: Path) -> None:
    """The sender gives up after one try."""
    async with asyncio.timeout(PATIENCE_S), running("http://127.0.0.1:9", tmp_path) as sender:
        opened(sender)[1].write("one\n")
        await wait_until(lambda: bool(sender._logs))


async def test_requests_are_limited(notifier: FakeNotifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is at most 1 MiB, however the texts are escaped; the other logs follow, those that waited first."""
    async with running(notifier.url, tmp_path) as sender:
        logs = dict(opened(sender) for _ in range(20))
        for job_log in logs.values():
            job_log.write("\0" * 20_000 + "\n")
        await wait_until(lambda: notifier.texts.keys() == logs.keys())
    assert len(notifier.requests) > 2
    assert notifier.largest_bytes <= MAX_APPENDS_BYTES


async def test_logs_of_ended_jobs_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the notifier is away, the oldest are dropped; those of running jobs stay."""
    monkeypatch.setattr(module, "MAX_CLOSED_LOGS", 3)
    left_out = LOG_BYTES_LEFT_OUT._value.get()
    sender = LogSender(cast(Any, None), "", cast(Any, None))
    logs = [opened(sender)[1] for _ in range(10)]
    for job_log in logs:
        job_log.write("x\n")
    for job_log in logs[1:]:
        job_log.close(has_ended=True)
    await wait_until(lambda: len(sender._logs) == 4)
    assert list(sender._logs) == [logs[0], *logs[-3:]]
    assert LOG_BYTES_LEFT_OUT._value.get() - left_out == 6 * len("x\n")


async def test_the_end_of_a_job_ends_the_backoff(
    notifier: FakeNotifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When an end could be reported, the notifier is available again, and clients wait for the rest of the log."""
    monkeypatch.setattr(module, "full_jitter_s", lambda *_: 3600)
    notifier.statuses = [503, 503]
    async with running(notifier.url, tmp_path) as sender:
        (first, one), (second, two) = opened(sender), opened(sender)
        one.write("one\n")
        two.write("two\n")
        await wait_until(lambda: len(notifier.requests) == 1)
        one.close(has_ended=True)
        await wait_until(lambda: len(notifier.requests) == 2)
        two.close(has_ended=True)
        await wait_until(lambda: notifier.texts == {first: "one\n", second: "two\n"})
