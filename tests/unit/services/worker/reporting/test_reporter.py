"""The reporter against a fake notifier over HTTP, whose responses a test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
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

Responder = Callable[[list[JobReport]], web.Response | None]  # None drops the connection without a response
NOW = Timestamp.now()
KEY = "the-report-key"


class FakeNotifier:
    """A notifier that records the reports of each request.

    The next requests consume `responders`; afterwards `default_responder` answers. Responses wait for `unblocked`.
    """

    def __init__(self) -> None:
        self.requests: list[list[JobReport]] = []
        self.responders: list[Responder] = []
        self.default_responder: Responder = self.accept
        self.unblocked = asyncio.Event()
        self.unblocked.set()
        self.in_flight = 0
        self.max_in_flight = 0
        self.watched = True
        self.readyz_status = 200
        self.url = ""
        self.probe_count = 0
        self.authorizations: set[str | None] = set()
        self.clients: dict[str, set[object]] = {"/reports": set(), "/readyz": set()}  # socket addresses by path

    def accept(self, reports: list[JobReport]) -> web.Response | None:
        """Accept all reports."""
        return web.Response(
            body=encode([Verdict(report.job_id, accepted=True, watched=self.watched) for report in reports])
        )

    async def post_reports(self, request: web.Request) -> web.Response:
        """Serve `POST /reports`."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.authorizations.add(request.headers.get("Authorization"))
        self.clients[request.path].add(request.get_extra_info("peername"))
        try:
            reports = decode(await request.read(), list[JobReport])
            self.requests.append(reports)
            await self.unblocked.wait()
            response = (self.responders.pop(0) if self.responders else self.default_responder)(reports)
            if response is None:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            return response
        finally:
            self.in_flight -= 1

    async def readyz(self, request: web.Request) -> web.Response:
        """Serve `GET /readyz`."""
        self.probe_count += 1
        self.clients[request.path].add(request.get_extra_info("peername"))
        return web.Response(status=self.readyz_status)

    def reports(self, job_id: UUID) -> list[JobReport]:
        """Return all reports of a job."""
        return [report for reports in self.requests for report in reports if report.job_id == job_id]


def respond_with_status(code: int) -> Responder:
    """Return a responder that answers with a status and without verdicts."""
    return lambda _reports: web.Response(status=code, text='{"detail":"no"}')


def reject_job(invalid: UUID, code: int = 422) -> Callable[[FakeNotifier], Responder]:
    """Return a responder that rejects requests with a report of this job, and accepts all others."""
    return lambda notifier: (
        lambda reports: (
            respond_with_status(code)(reports)
            if any(report.job_id == invalid for report in reports)
            else notifier.accept(reports)
        )
    )


@pytest.fixture
async def notifier() -> AsyncIterator[FakeNotifier]:
    """Run a fake notifier."""
    fake = FakeNotifier()
    app = web.Application(client_max_size=4 * MAX_REPORTS_BYTES)
    app.add_routes([web.post("/reports", fake.post_reports), web.get("/readyz", fake.readyz)])
    async with TestServer(app) as server:
        fake.url = str(server.make_url(""))
        yield fake


@asynccontextmanager
async def reporting(notifier: FakeNotifier, tmp_path: Path, heartbeat_s: float = 60) -> AsyncIterator[Reporter]:
    """Run a reporter until the block ends."""
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
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    monkeypatch.setattr(module, "MAX_BACKOFF_S", 0.02)


def initial_report(job_id: UUID | None = None) -> JobReport:
    """Return the first state of a delivery."""
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
    """Ignore a verdict."""


async def send(stream: ReportStream, job_status: str = "running", **fields: Any) -> Verdict:
    """Report a change of status and return the verdict; fail after 10 s without one."""
    async with asyncio.timeout(10):
        return await stream.report(job_status, lease_until=None, **fields)  # type: ignore[arg-type]


async def test_report_gets_its_verdict(notifier: FakeNotifier, tmp_path: Path) -> None:
    """The reporter sends a report with the report key and returns the notifier's verdict."""
    async with reporting(notifier, tmp_path) as reporter:
        initial = initial_report()
        with reporter.stream(initial, ignore) as stream:
            assert await send(stream) == Verdict(initial.job_id, accepted=True, watched=True)
        assert [report.sequence for report in notifier.reports(initial.job_id)] == [1]
        assert notifier.authorizations == {f"Bearer {KEY}"}
        assert reporter.reachable.is_set()


async def test_reports_during_a_request_are_coalesced(notifier: FakeNotifier, tmp_path: Path) -> None:
    """One request is in flight at a time; the next one carries the latest progress of each job."""
    async with reporting(notifier, tmp_path) as reporter, AsyncExitStack() as stack:
        streams = [stack.enter_context(reporter.stream(initial_report(), ignore)) for _ in range(3)]
        await asyncio.gather(*map(send, streams))
        notifier.unblocked.clear()
        earlier = len(notifier.requests)
        streams[0].progress_changed(partial(Progress, 0, 100))
        await wait_until(lambda: notifier.in_flight)
        for current in range(1, 101):
            for stream in streams:
                stream.progress_changed(partial(Progress, current, 100))
            await asyncio.sleep(0)
        notifier.unblocked.set()
        await asyncio.gather(*(send(stream, "succeeded") for stream in streams))
    later = notifier.requests[earlier:]
    assert later[0][0].progress == Progress(0, 100)
    assert all(reports[0].progress == Progress(100, 100) for reports in later[1:])
    assert len(later) <= 3
    assert notifier.max_in_flight == 1


async def test_sequence_increases_after_a_lost_response(notifier: FakeNotifier, tmp_path: Path) -> None:
    """The notifier may have applied the report; with the same sequence it would reject the repetition as stale."""
    async with reporting(notifier, tmp_path) as reporter:
        initial = initial_report()
        notifier.responders = [lambda _: None, lambda _: None]
        with reporter.stream(initial, ignore) as stream:
            assert (await send(stream)).accepted
        assert [report.sequence for report in notifier.reports(initial.job_id)] == [1, 2, 3]


@pytest.mark.parametrize(
    "failure",
    [
        respond_with_status(503),
        respond_with_status(502),
        respond_with_status(401),
        respond_with_status(429),
        lambda _: web.Response(text="<html>"),
        lambda _: web.Response(text="[]"),
        lambda reports: web.Response(body=encode([Verdict(uuid4(), accepted=True) for _ in reports])),
    ],
    ids=["503", "502", "401", "429", "no JSON", "no verdicts", "verdicts of other jobs"],
)
async def test_unusable_response_loses_no_report(notifier: FakeNotifier, tmp_path: Path, failure: Responder) -> None:
    """The reporter repeats the whole request, with the latest state, until it gets verdicts."""
    async with reporting(notifier, tmp_path) as reporter, AsyncExitStack() as stack:
        received: list[Verdict] = []
        notifier.default_responder = failure
        streams = [stack.enter_context(reporter.stream(initial_report(), received.append)) for _ in range(2)]
        waiting = [asyncio.create_task(send(stream, "succeeded", result=Json(b"7"))) for stream in streams]
        await wait_until(lambda: len(notifier.requests) >= 3)
        assert not reporter.reachable.is_set()
        assert received == []
        notifier.default_responder = notifier.accept
        assert [verdict.accepted for verdict in await asyncio.gather(*waiting)] == [True, True]
    assert {len(reports) for reports in notifier.requests} == {2}
    last = notifier.requests[-1]
    assert [(report.status, bytes(report.result)) for report in last] == [("succeeded", b"7")] * 2
    assert last[0].sequence == len(notifier.requests)


async def test_invalid_report_does_not_affect_the_others(notifier: FakeNotifier, tmp_path: Path) -> None:
    """A rejected request is split in halves until the invalid report is alone; all other reports are accepted."""
    async with reporting(notifier, tmp_path) as reporter:
        initial = [initial_report() for _ in range(9)]
        invalid = initial[4].job_id
        notifier.default_responder = reject_job(invalid)(notifier)
        with ExitStack() as stack:
            streams = [stack.enter_context(reporter.stream(report, ignore)) for report in initial]
            verdicts = await asyncio.gather(*map(send, streams), return_exceptions=True)
        assert [isinstance(verdict, ReportRejected) for verdict in verdicts] == [n == 4 for n in range(9)]
        assert len(notifier.requests[0]) == 9
        sizes = [len(reports) for reports in notifier.requests if any(report.job_id == invalid for report in reports)]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] == 1
        assert len(notifier.requests) <= 9
        assert notifier.max_in_flight == 1


async def test_rejected_outcome_is_reduced_to_a_failure(notifier: FakeNotifier, tmp_path: Path) -> None:
    """The reporter sends `failed` without result and progress, so that the job ends for its watchers."""
    async with reporting(notifier, tmp_path) as reporter:
        initial = initial_report()
        with reporter.stream(initial, ignore) as stream:
            await send(stream)
            notifier.responders = [respond_with_status(422)]
            assert (await send(stream, "succeeded", result=Json(b'"too large"'))).accepted
        last = notifier.reports(initial.job_id)[-1]
        assert (last.status, bytes(last.result), last.progress) == ("failed", b"null", None)
        assert last.error is not None
        assert last.error.type == "ReportRefused"


async def test_reports_over_the_size_limit_are_split(notifier: FakeNotifier, tmp_path: Path) -> None:
    """Large results are sent in several requests, each within the limit."""
    async with reporting(notifier, tmp_path) as reporter:
        large = Json(b'"' + b"x" * 32_000 + b'"')
        with ExitStack() as stack:
            streams = [stack.enter_context(reporter.stream(initial_report(), ignore)) for _ in range(60)]
            await asyncio.gather(*(send(stream, "succeeded", result=large) for stream in streams))
        assert len(notifier.requests) > 1
        assert max(len(encode(reports)) for reports in notifier.requests) <= MAX_REPORTS_BYTES
        assert sum(map(len, notifier.requests)) == 60


async def test_running_job_sends_heartbeats(notifier: FakeNotifier, tmp_path: Path) -> None:
    """An unchanged job is reported once per heartbeat, so that the verdict can request its cancellation."""
    async with reporting(notifier, tmp_path, heartbeat_s=0.02) as reporter:
        initial = initial_report()
        received: list[Verdict] = []
        with reporter.stream(initial, received.append) as stream:
            await send(stream)
            await wait_until(lambda: len(received) >= 4)
        sequences = [report.sequence for report in notifier.reports(initial.job_id)]
        assert sequences == list(range(1, len(sequences) + 1))


async def test_unwatched_progress_waits_for_the_heartbeat(notifier: FakeNotifier, tmp_path: Path) -> None:
    """Progress of an unwatched job causes no request of its own; it is sent with a heartbeat or a change of status."""
    notifier.watched = False
    async with reporting(notifier, tmp_path) as reporter:
        initial = initial_report()
        with reporter.stream(initial, ignore) as stream, reporter.stream(initial_report(), ignore) as other:
            await send(stream)
            for current in range(1000):
                stream.progress_changed(partial(Progress, current, 1000))
            await send(other)  # the first stream was not due for this request
            assert [report.progress for report in notifier.reports(initial.job_id)] == [None]
            await send(stream, "succeeded")
        assert notifier.reports(initial.job_id)[-1].progress == Progress(999, 1000)


async def test_reporter_without_streams_probes_the_notifier(notifier: FakeNotifier, tmp_path: Path) -> None:
    """`reachable` is set when the notifier is ready, even if the worker has nothing to report."""
    notifier.readyz_status = 503
    async with reporting(notifier, tmp_path) as reporter:
        await wait_until(lambda: notifier.probe_count >= 3)
        assert not reporter.reachable.is_set()
        notifier.readyz_status = 200
        async with asyncio.timeout(10):
            await reporter.reachable.wait()
        assert notifier.requests == []


async def test_probes_do_not_use_the_connection_for_reports(notifier: FakeNotifier, tmp_path: Path) -> None:
    """The notifier has a fast path for connections that carry only reports."""
    async with reporting(notifier, tmp_path) as reporter:
        await wait_until(reporter.reachable.is_set)
        with reporter.stream(initial_report(), ignore) as stream:
            for _ in range(3):
                await send(stream)
    assert len(notifier.clients["/reports"]) == 1
    assert notifier.clients["/readyz"]
    assert not notifier.clients["/reports"] & notifier.clients["/readyz"]


async def test_report_waits_for_an_unreachable_notifier(notifier: FakeNotifier, tmp_path: Path) -> None:
    """The reporter retries refused connections until the notifier is reachable, and returns its verdict."""
    url, notifier.url = notifier.url, f"http://127.0.0.1:{free_ports(1)[0]}"
    refused = metrics.REPORT_REQUESTS.labels("unreachable")._value
    before = refused.get()
    async with reporting(notifier, tmp_path) as reporter:
        with reporter.stream(initial_report(), ignore) as stream:
            waiting = asyncio.create_task(send(stream))
            await wait_until(lambda: refused.get() >= before + 3)
            reporter._url = url.rstrip("/")
            assert (await waiting).accepted


async def test_rotated_report_key_is_used_without_a_restart(notifier: FakeNotifier, tmp_path: Path) -> None:
    """The reporter retries after a 401 and reads the key file again."""
    async with reporting(notifier, tmp_path) as reporter:
        notifier.default_responder = respond_with_status(401)
        with reporter.stream(initial_report(), ignore) as stream:
            waiting = asyncio.create_task(send(stream))
            await wait_until(lambda: len(notifier.requests) >= 2)
            (tmp_path / "new").write_text("the-new-key\n")
            (tmp_path / "new").replace(tmp_path / "report.key")
            await wait_until(lambda: "Bearer the-new-key" in notifier.authorizations)
            notifier.default_responder = notifier.accept
            assert (await waiting).accepted
