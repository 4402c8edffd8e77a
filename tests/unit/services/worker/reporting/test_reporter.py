"""The reporter against a real HTTP server that fails on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from headway.contracts import MAX_REPORTS_BYTES, JobReport, Json, Progress, Timestamp, Verdict, decode, encode
from services.runtime.settings import ReloadingFile, read_keys
from services.worker import metrics
from services.worker.reporting import reporter as module
from services.worker.reporting.report_stream import ReportRejected, ReportStream
from services.worker.reporting.reporter import Reporter
from tests.waiting import free_ports, wait_until

Answer = Callable[[list[JobReport]], web.Response | None]  # None takes the reports and drops the connection
NOW = Timestamp.now()
KEY = "the-report-key"


class FakeNotifier:
    """Takes reports as the notifier does, unless an answer is laid down beforehand."""

    def __init__(self) -> None:
        self.batches: list[list[JobReport]] = []
        self.script: list[Answer] = []
        self.otherwise: Answer = self.accept
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = 0
        self.most_at_once = 0
        self.watched = True
        self.ready = 200
        self.url = ""
        self.probes = 0
        self.keys: set[str | None] = set()
        self.lines: dict[str, set[object]] = {"/reports": set(), "/readyz": set()}  # over which it was asked for what

    def accept(self, reports: list[JobReport]) -> web.Response | None:
        """Accept all of them."""
        return web.Response(
            body=encode([Verdict(report.job_id, accepted=True, watched=self.watched) for report in reports])
        )

    async def take(self, request: web.Request) -> web.Response:
        """Serve `POST /reports`."""
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.keys.add(request.headers.get("Authorization"))
        self.lines[request.path].add(request.get_extra_info("peername"))
        try:
            reports = decode(await request.read(), list[JobReport])
            self.batches.append(reports)
            await self.gate.wait()
            answer = (self.script.pop(0) if self.script else self.otherwise)(reports)
            if answer is None:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            return answer
        finally:
            self.at_once -= 1

    async def readyz(self, request: web.Request) -> web.Response:
        """Serve the probe."""
        self.probes += 1
        self.lines[request.path].add(request.get_extra_info("peername"))
        return web.Response(status=self.ready)

    def reports(self, job_id: UUID) -> list[JobReport]:
        """Return what has come about a job."""
        return [report for batch in self.batches for report in batch if report.job_id == job_id]


def status(code: int) -> Answer:
    """Answer with a status and no verdicts."""
    return lambda _reports: web.Response(status=code, text='{"detail":"no"}')


def refusing(bad: UUID, code: int = 422) -> Callable[[FakeNotifier], Answer]:
    """Answer with a refusal as long as the report of that job is among the others."""
    return lambda notifier: (
        lambda reports: status(code)(reports) if any(one.job_id == bad for one in reports) else notifier.accept(reports)
    )


@pytest.fixture
async def notifier() -> AsyncIterator[FakeNotifier]:
    """Serve a notifier."""
    fake = FakeNotifier()
    app = web.Application(client_max_size=4 * MAX_REPORTS_BYTES)
    app.add_routes([web.post("/reports", fake.take), web.get("/readyz", fake.readyz)])
    async with TestServer(app) as server:
        fake.url = str(server.make_url(""))
        yield fake


@asynccontextmanager
async def reporting(notifier: FakeNotifier, tmp_path: Path, heartbeat_s: float = 60) -> AsyncIterator[Reporter]:
    """Run a reporter that tries again without much waiting."""
    (tmp_path / "report.key").write_text(f"{KEY}\n")
    keys = ReloadingFile(tmp_path / "report.key", read_keys)
    async with Reporter.connect(notifier.url, keys, heartbeat_s) as reporter:
        task = asyncio.create_task(reporter.run())
        try:
            yield reporter
        finally:
            assert not task.done(), task
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    monkeypatch.setattr(module, "MAX_BACKOFF_S", 0.02)


def first(job_id: UUID | None = None) -> JobReport:
    """Return the state that a delivery begins with."""
    return JobReport(
        job_id=job_id or uuid4(),
        kind="test",
        message_id="m-1",
        delivery=1,
        sequence=0,
        status="running",
        submitted_at=NOW,
        expires_at=NOW.after(3600),
    )


def ignore(_verdict: Verdict) -> None:
    """Hear nothing."""


async def tell(stream: ReportStream, state: str = "running", **more: Any) -> Verdict:
    """Tell something that matters, and fail when nobody answers."""
    async with asyncio.timeout(10):
        return await stream.report(state, lease_until=None, **more)  # type: ignore[arg-type]


async def test_a_report_brings_its_verdict(notifier: FakeNotifier, tmp_path: Path) -> None:
    """What is told arrives, with the key, and the verdict comes back."""
    async with reporting(notifier, tmp_path) as reporter:
        report = first()
        with reporter.stream(report, ignore) as stream:
            assert await tell(stream) == Verdict(report.job_id, accepted=True, watched=True)
        assert [one.sequence for one in notifier.reports(report.job_id)] == [1]
        assert notifier.keys == {f"Bearer {KEY}"}
        assert reporter.reachable.is_set()


async def test_one_request_is_in_flight_and_the_latest_progress_wins(notifier: FakeNotifier, tmp_path: Path) -> None:
    """What is shown while a request is on its way coalesces per job, and goes in one batch."""
    async with reporting(notifier, tmp_path) as reporter:
        reports = [first() for _ in range(3)]
        with (
            reporter.stream(reports[0], ignore) as one,
            reporter.stream(reports[1], ignore) as two,
            reporter.stream(reports[2], ignore) as three,
        ):
            streams = (one, two, three)
            await asyncio.gather(*map(tell, streams))
            notifier.gate.clear()
            before = len(notifier.batches)
            one.progress_changed(partial(Progress, 0, 100))
            await wait_until(lambda: notifier.at_once)
            for current in range(1, 101):
                for stream in streams:
                    stream.progress_changed(partial(Progress, current, 100))
                await asyncio.sleep(0)
            notifier.gate.set()
            await asyncio.gather(*(tell(stream, "succeeded") for stream in streams))
        later = notifier.batches[before:]
        assert later[0][0].progress == Progress(0, 100)
        assert all(batch[0].progress == Progress(100, 100) for batch in later[1:])
        assert len(later) <= 3
        assert notifier.most_at_once == 1


async def test_after_a_lost_response_the_sequence_rises(notifier: FakeNotifier, tmp_path: Path) -> None:
    """The notifier took the report, the answer got lost: sent again, it must not look like the old one."""
    async with reporting(notifier, tmp_path) as reporter:
        report = first()
        notifier.script = [lambda _: None, lambda _: None]
        with reporter.stream(report, ignore) as stream:
            assert (await tell(stream)).accepted
        assert [one.sequence for one in notifier.reports(report.job_id)] == [1, 2, 3]


@pytest.mark.parametrize(
    "failure",
    [
        status(503),
        status(502),
        status(401),
        status(429),
        lambda _: web.Response(text="<html>"),
        lambda _: web.Response(text="[]"),
        lambda reports: web.Response(body=encode([Verdict(uuid4(), accepted=True) for _ in reports])),
    ],
    ids=["503", "502", "401", "429", "no JSON", "no verdicts", "verdicts of others"],
)
async def test_an_answer_that_is_none_keeps_everything(notifier: FakeNotifier, tmp_path: Path, failure: Answer) -> None:
    """While the notifier cannot tell, nothing is dropped, halved or taken for a verdict."""
    async with reporting(notifier, tmp_path) as reporter:
        reports = [first(), first()]
        heard: list[Verdict] = []
        notifier.otherwise = failure
        with reporter.stream(reports[0], heard.append) as one, reporter.stream(reports[1], heard.append) as two:
            waiting = [asyncio.create_task(tell(stream, "succeeded", result=Json(b"7"))) for stream in (one, two)]
            await wait_until(lambda: len(notifier.batches) >= 3)
            assert not reporter.reachable.is_set()
            assert heard == []
            notifier.otherwise = notifier.accept
            assert [verdict.accepted for verdict in await asyncio.gather(*waiting)] == [True, True]
        assert {len(batch) for batch in notifier.batches} == {2}
        last = notifier.batches[-1]
        assert [(report.status, bytes(report.result)) for report in last] == [("succeeded", b"7")] * 2
        assert last[0].sequence == len(notifier.batches)


async def test_one_bad_report_does_not_cost_the_others_theirs(notifier: FakeNotifier, tmp_path: Path) -> None:
    """A refused batch is halved until the report that is to blame stands alone; all the others pass."""
    async with reporting(notifier, tmp_path) as reporter:
        reports = [first() for _ in range(9)]
        bad = reports[4].job_id
        notifier.otherwise = refusing(bad)(notifier)
        with ExitStack() as stack:
            streams = [stack.enter_context(reporter.stream(report, ignore)) for report in reports]
            verdicts = await asyncio.gather(*map(tell, streams), return_exceptions=True)
        assert [isinstance(verdict, ReportRejected) for verdict in verdicts] == [n == 4 for n in range(9)]
        assert len(notifier.batches[0]) == 9
        alone = [len(batch) for batch in notifier.batches if any(one.job_id == bad for one in batch)]
        assert alone == sorted(alone, reverse=True)
        assert alone[-1] == 1
        assert len(notifier.batches) <= 9
        assert notifier.most_at_once == 1


async def test_a_refused_ending_becomes_a_bare_failure(notifier: FakeNotifier, tmp_path: Path) -> None:
    """A watcher is not left with a bar that stands still for ever."""
    async with reporting(notifier, tmp_path) as reporter:
        report = first()
        with reporter.stream(report, ignore) as stream:
            await tell(stream)
            notifier.script = [status(422)]
            assert (await tell(stream, "succeeded", result=Json(b'"too large"'))).accepted
        ending = notifier.reports(report.job_id)[-1]
        assert (ending.status, bytes(ending.result), ending.progress) == ("failed", b"null", None)
        assert ending.error is not None
        assert ending.error.type == "ReportRefused"


async def test_a_batch_over_the_limit_is_sent_in_parts(notifier: FakeNotifier, tmp_path: Path) -> None:
    """Large results do not make a request that would be refused for its size."""
    async with reporting(notifier, tmp_path) as reporter:
        large = Json(b'"' + b"x" * 32_000 + b'"')
        with ExitStack() as stack:
            streams = [stack.enter_context(reporter.stream(first(), ignore)) for _ in range(60)]
            await asyncio.gather(*(tell(stream, "succeeded", result=large) for stream in streams))
        assert len(notifier.batches) > 1
        assert max(len(encode(batch)) for batch in notifier.batches) <= MAX_REPORTS_BYTES
        assert sum(map(len, notifier.batches)) == 60


async def test_heartbeats_come_without_changes(notifier: FakeNotifier, tmp_path: Path) -> None:
    """A running job is reported at least once a heartbeat, so that a cancel arrives within it."""
    async with reporting(notifier, tmp_path, heartbeat_s=0.02) as reporter:
        report = first()
        heard: list[Verdict] = []
        with reporter.stream(report, heard.append) as stream:
            await tell(stream)
            await wait_until(lambda: len(heard) >= 4)
        sequences = [one.sequence for one in notifier.reports(report.job_id)]
        assert sequences == list(range(1, len(sequences) + 1))


async def test_unwatched_progress_waits_for_the_heartbeat(notifier: FakeNotifier, tmp_path: Path) -> None:
    """While nobody watches, a thousand steps cost no request until the heartbeat or an ending comes."""
    notifier.watched = False
    async with reporting(notifier, tmp_path) as reporter:
        report = first()
        with reporter.stream(report, ignore) as stream, reporter.stream(first(), ignore) as other:
            await tell(stream)
            for current in range(1000):
                stream.progress_changed(partial(Progress, current, 1000))
            await tell(other)  # a whole turn of the reporter, in which the first stream was not due
            assert [one.progress for one in notifier.reports(report.job_id)] == [None]
            await tell(stream, "succeeded")
        assert notifier.reports(report.job_id)[-1].progress == Progress(999, 1000)


async def test_without_reports_the_notifier_is_asked_whether_it_is_there(
    notifier: FakeNotifier, tmp_path: Path
) -> None:
    """A worker that has nothing to report learns that the notifier is back, and only then receives."""
    notifier.ready = 503
    async with reporting(notifier, tmp_path) as reporter:
        await wait_until(lambda: notifier.probes >= 3)
        assert not reporter.reachable.is_set()
        notifier.ready = 200
        async with asyncio.timeout(10):
            await reporter.reachable.wait()
        assert notifier.batches == []


async def test_nothing_else_comes_over_the_line_of_reports(notifier: FakeNotifier, tmp_path: Path) -> None:
    """The notifier takes them quicker there, as long as they follow each other."""
    async with reporting(notifier, tmp_path) as reporter:
        await wait_until(reporter.reachable.is_set)
        with reporter.stream(first(), ignore) as stream:
            for _ in range(3):
                await tell(stream)
    assert len(notifier.lines["/reports"]) == 1
    assert notifier.lines["/readyz"]
    assert not notifier.lines["/reports"] & notifier.lines["/readyz"]


async def test_a_notifier_that_is_away_keeps_everything(notifier: FakeNotifier, tmp_path: Path) -> None:
    """A refused connection is tried again, and the verdict comes once there is someone to give it."""
    url, notifier.url = notifier.url, f"http://127.0.0.1:{free_ports(1)[0]}"
    refused = metrics.REPORTS.labels("unreachable")._value
    before = refused.get()
    async with reporting(notifier, tmp_path) as reporter:
        with reporter.stream(first(), ignore) as stream:
            waiting = asyncio.create_task(tell(stream))
            await wait_until(lambda: refused.get() >= before + 3)
            reporter._url = url.rstrip("/")
            assert (await waiting).accepted


async def test_a_rotated_key_is_used_without_a_restart(notifier: FakeNotifier, tmp_path: Path) -> None:
    """A 401 keeps everything until the key file has the right key."""
    async with reporting(notifier, tmp_path) as reporter:
        notifier.otherwise = status(401)
        with reporter.stream(first(), ignore) as stream:
            waiting = asyncio.create_task(tell(stream))
            await wait_until(lambda: len(notifier.batches) >= 2)
            (tmp_path / "new").write_text("the-new-key\n")
            (tmp_path / "new").replace(tmp_path / "report.key")
            await wait_until(lambda: "Bearer the-new-key" in notifier.keys)
            notifier.otherwise = notifier.accept
            assert (await waiting).accepted
