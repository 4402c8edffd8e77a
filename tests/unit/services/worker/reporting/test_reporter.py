"""The reporter against a fake notifier over HTTP, whose responses a test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import REGISTRY

from headway.contracts import MAX_REPORTS_BYTES, JobReport, Json, Progress, Verdict, decode, encode
from services.runtime.errors import PROBLEM_JSON, problem_json, problem_response
from services.runtime.settings import ReloadingFile, read_keys
from services.worker import metrics
from services.worker.reporting import report_stream, reporter
from services.worker.reporting.report_stream import ReportRejected, ReportStream
from services.worker.reporting.reporter import Reporter
from tests.reports import first_report
from tests.waiting import PATIENCE_S, free_ports, wait_until

# bytes: sent instead of a response, after which the connection is closed
Responder = Callable[[list[JobReport]], web.Response | bytes]
KEY = "the-report-key"
DISCONNECT = b""


class FakeNotifier:
    """A notifier that records the reports of each request.

    The next requests consume `responders`; afterwards `default_responder` answers. Responses wait for `unblocked`.
    Requests with other methods or paths, such as followed redirects, are recorded in `strays`.
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
        self.clients: dict[str, list[object]] = {"/reports": [], "/readyz": []}  # socket addresses by path
        self.strays: list[str] = []

    def accept(self, reports: list[JobReport]) -> web.Response:
        """Accept all reports."""
        return web.Response(
            body=encode([Verdict(report.job_id, accepted=True, watched=self.watched) for report in reports])
        )

    async def post_reports(self, request: web.Request) -> web.Response:
        """Serve `POST /reports`."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.authorizations.add(request.headers.get("Authorization"))
        self.clients[request.path].append(request.get_extra_info("peername"))
        try:
            reports = decode(await request.read(), list[JobReport])
            self.requests.append(reports)
            await self.unblocked.wait()
            response = (self.responders.pop(0) if self.responders else self.default_responder)(reports)
            if isinstance(response, bytes):
                assert request.transport is not None
                request.transport.write(response)
                request.transport.close()
                return web.Response()
            return response
        finally:
            self.in_flight -= 1

    async def readyz(self, request: web.Request) -> web.Response:
        """Serve `GET /readyz`."""
        self.probe_count += 1
        self.clients[request.path].append(request.get_extra_info("peername"))
        return web.Response(status=self.readyz_status)

    async def stray(self, request: web.Request) -> web.Response:
        """Serve any other request."""
        self.strays.append(f"{request.method} {request.path}")
        return web.Response()

    def reports(self, job_id: UUID) -> list[JobReport]:
        """Return all reports of a job."""
        return [report for reports in self.requests for report in reports if report.job_id == job_id]


def respond_with_status(code: int) -> Responder:
    """Return a responder that answers with a status and without verdicts."""
    return lambda _reports: web.Response(status=code, text='{"detail":"no"}')


def respond_with_problem(status: int, code: str) -> Responder:
    """Return a responder that answers with a problem, as a notifier does."""
    return lambda _reports: problem_response(status, code, "no")


def respond_with_body(status: int, body: bytes, content_type: str, **headers: str) -> Responder:
    """Return a responder that answers with any body."""
    return lambda _reports: web.Response(status=status, body=body, content_type=content_type, headers=headers)


def respond_with_verdicts(change: Callable[[list[Verdict]], list[Any]]) -> Responder:
    """Return a responder that changes the list of the verdicts."""
    return lambda reports: web.json_response(
        body=encode(change([Verdict(report.job_id, accepted=True) for report in reports]))
    )


def send_and_disconnect(response: bytes) -> Responder:
    """Return a responder that sends bytes and closes the connection."""
    return lambda _reports: response


REJECT = respond_with_problem(422, "invalid")


def answer_job(job_id: UUID, responder: Responder, others: Responder) -> Responder:
    """Return a responder for requests with a report of this job; `others` answers all others."""
    return lambda reports: (responder if any(report.job_id == job_id for report in reports) else others)(reports)


@pytest.fixture
async def notifier() -> AsyncIterator[FakeNotifier]:
    """Run a fake notifier."""
    fake = FakeNotifier()
    app = web.Application(client_max_size=4 * MAX_REPORTS_BYTES)
    app.add_routes([web.post("/reports", fake.post_reports), web.get("/readyz", fake.readyz)])
    app.router.add_route("*", "/{path:.*}", fake.stray)
    async with TestServer(app) as server:
        fake.url = str(server.make_url(""))
        yield fake


@asynccontextmanager
async def reporting(
    notifier: FakeNotifier, tmp_path: Path, heartbeat_s: float = 60, worker_id: str | None = None
) -> AsyncIterator[Reporter]:
    """Run a reporter until the block ends."""
    (tmp_path / "report.key").write_text(f"{KEY}\n")
    keys = ReloadingFile(tmp_path / "report.key", read_keys)
    async with Reporter.connect(notifier.url, keys, heartbeat_s, worker_id) as reporter:
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
    for module in (reporter, report_stream):
        monkeypatch.setattr(module, "BACKOFF_S", 0.01)
        monkeypatch.setattr(module, "MAX_BACKOFF_S", 0.02)


def ignore(_verdict: Verdict) -> None:
    """Ignore a verdict."""


async def send(stream: ReportStream, job_status: str = "running", **fields: Any) -> Verdict:
    """Report a change of status and return the verdict; fail if there is none."""
    async with asyncio.timeout(PATIENCE_S):
        return await stream.report(job_status, lease_until=None, **fields)  # type: ignore[arg-type]


async def test_report_gets_its_verdict(notifier: FakeNotifier, tmp_path: Path) -> None:
    """The reporter sends a report with the report key and returns the notifier's verdict."""
    async with reporting(notifier, tmp_path) as reporter:
        initial = first_report()
        with reporter.stream(initial, ignore) as stream:
            assert await send(stream) == Verdict(initial.job_id, accepted=True, watched=True)
        assert [report.sequence for report in notifier.reports(initial.job_id)] == [1]
        assert notifier.authorizations == {f"Bearer {KEY}"}
        assert reporter.reachable.is_set()


async def test_reports_during_a_request_are_coalesced(notifier: FakeNotifier, tmp_path: Path) -> None:
    """One request is in flight at a time; the next one carries the latest progress of each job."""
    async with reporting(notifier, tmp_path) as reporter, AsyncExitStack() as stack:
        streams = [stack.enter_context(reporter.stream(first_report(), ignore)) for _ in range(3)]
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
        initial = first_report()
        notifier.responders = [lambda _: DISCONNECT, lambda _: DISCONNECT]
        with reporter.stream(initial, ignore) as stream:
            assert (await send(stream)).accepted
        assert [report.sequence for report in notifier.reports(initial.job_id)] == [1, 2, 3]


UNUSABLE_RESPONSES: dict[str, Responder] = {
    "500": respond_with_status(500),
    "500 of the notifier": respond_with_problem(500, "internal_error"),
    "502": respond_with_status(502),
    "503": respond_with_status(503),
    "503 of the notifier": respond_with_problem(503, "unavailable"),
    "400 of a proxy": respond_with_body(400, b"<html>Bad Request</html>", "text/html"),
    "413 of a proxy": respond_with_body(413, b"<html>Request Entity Too Large</html>", "text/html"),
    "422 of another program": respond_with_body(422, b'{"detail":[{"loc":["body",0]}]}', "application/json"),
    "422 with the body of a problem and another type": respond_with_body(
        422, problem_json(422, "invalid", "no"), "application/json"
    ),
    "422 with an unknown code": respond_with_problem(422, "blocked_by_policy"),
    "422 with the code of another status": respond_with_problem(422, "too_large"),
    "500 with a known code": respond_with_problem(500, "invalid"),
    "422 without a code": respond_with_body(422, b'{"status":422}', PROBLEM_JSON),
    "422 with a code that is no text": respond_with_body(422, b'{"code":["invalid"]}', PROBLEM_JSON),
    "422 with half of a problem": respond_with_body(422, problem_json(422, "invalid", "no")[:-9], PROBLEM_JSON),
    "422 with a list": respond_with_body(422, b'["invalid"]', PROBLEM_JSON),
    "422 without a body": respond_with_body(422, b"", PROBLEM_JSON),
    "422 that is not UTF-8": respond_with_body(422, b'{"code":"invalid","detail":"\xff"}', PROBLEM_JSON),
    "422 nested deep": respond_with_body(422, b"[" * 100_000, PROBLEM_JSON),
    "401": respond_with_status(401),
    "401 of the notifier": respond_with_problem(401, "unauthorized"),
    "403": respond_with_status(403),
    "404 of the notifier": respond_with_problem(404, "not_found"),
    "407": respond_with_status(407),
    "408 of the notifier": respond_with_problem(408, "too_slow"),
    "429": respond_with_status(429),
    "301": respond_with_body(301, b"", "text/html", Location="/elsewhere"),
    "302": respond_with_body(302, b"", "text/html", Location="/elsewhere"),
    "307": respond_with_body(307, b"", "text/html", Location="/elsewhere"),
    "308": respond_with_body(308, b"", "text/html", Location="/elsewhere"),
    "201": lambda reports: web.Response(status=201, body=encode([Verdict(r.job_id, accepted=True) for r in reports])),
    "204": respond_with_status(204),
    "no body": respond_with_body(200, b"", "application/json"),
    "HTML": respond_with_body(200, b"<html>Sign in</html>", "text/html"),
    "null": respond_with_body(200, b"null", "application/json"),
    "an object": respond_with_body(200, b"{}", "application/json"),
    "nested deep": respond_with_body(200, b"[" * 100_000, "application/json"),
    "not UTF-8": respond_with_body(200, b'["\xff"]', "application/json"),
    "no verdicts": respond_with_verdicts(lambda _: []),
    "another verdict": respond_with_verdicts(lambda verdicts: [*verdicts, verdicts[0]]),
    "verdicts of other jobs": respond_with_verdicts(lambda verdicts: [Verdict(uuid4(), accepted=True)] * len(verdicts)),
    "verdicts with an unknown reason": respond_with_verdicts(
        lambda verdicts: [{"job_id": verdict.job_id, "accepted": False, "reason": "tired"} for verdict in verdicts]
    ),
    "verdicts without a decision": respond_with_verdicts(
        lambda verdicts: [{"job_id": verdict.job_id} for verdict in verdicts]
    ),
    "no response": lambda _: DISCONNECT,
    "no HTTP": send_and_disconnect(b"220 mail.example ESMTP\r\n"),
    "half a head": send_and_disconnect(b"HTTP/1.1 200 OK\r\nContent-Ty"),
    "half a body": send_and_disconnect(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[{"),
    "half a problem": send_and_disconnect(
        b"HTTP/1.1 422 No\r\nContent-Type: application/problem+json\r\nContent-Length: 99\r\n\r\n"
        + problem_json(422, "invalid", "no")[:20]
    ),
    "an unknown encoding": send_and_disconnect(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n[]"
    ),
    "chunks without sizes": send_and_disconnect(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n[]\r\n"),
}


@pytest.mark.parametrize("response", UNUSABLE_RESPONSES.values(), ids=UNUSABLE_RESPONSES)
async def test_unusable_response_loses_no_report(notifier: FakeNotifier, tmp_path: Path, response: Responder) -> None:
    """Only a problem with one of the notifier's codes rejects a report; after any other response it is sent again."""
    notifier.readyz_status = 503
    async with reporting(notifier, tmp_path) as reporter, AsyncExitStack() as stack:
        received: list[Verdict] = []
        notifier.default_responder = response
        streams = [stack.enter_context(reporter.stream(first_report(), received.append)) for _ in range(2)]
        waiting = [asyncio.create_task(send(stream, "succeeded", result=Json(b"7"))) for stream in streams]
        await wait_until(lambda: len(notifier.requests) >= 4)
        assert not reporter.reachable.is_set()
        assert received == []
        notifier.default_responder = notifier.accept
        assert [verdict.accepted for verdict in await asyncio.gather(*waiting)] == [True, True]
    for stream in streams:
        reports = notifier.reports(stream.job_id)
        assert {(report.status, bytes(report.result), report.error) for report in reports} == {
            ("succeeded", b"7", None)
        }
        assert [report.sequence for report in reports] == list(range(1, len(reports) + 1))
    assert notifier.strays == []


@pytest.mark.parametrize(
    "change", [lambda verdicts: verdicts[::-1], lambda verdicts: verdicts[:1]], ids=["another order", "too few"]
)
async def test_verdicts_reach_their_own_jobs(
    notifier: FakeNotifier, tmp_path: Path, change: Callable[[list[Verdict]], list[Any]]
) -> None:
    """Verdicts that do not match the reports are not used."""
    notifier.default_responder = respond_with_verdicts(change)
    async with reporting(notifier, tmp_path) as reporter, AsyncExitStack() as stack:
        streams = [stack.enter_context(reporter.stream(first_report(), ignore)) for _ in range(4)]
        verdicts = await asyncio.gather(*map(send, streams))
    assert [verdict.job_id for verdict in verdicts] == [stream.job_id for stream in streams]


@pytest.mark.parametrize(("status", "code"), [(400, "malformed"), (413, "too_large"), (422, "invalid")])
async def test_the_notifier_rejects_a_report(notifier: FakeNotifier, tmp_path: Path, status: int, code: str) -> None:
    """A problem with one of the notifier's codes for invalid requests is final."""
    async with reporting(notifier, tmp_path) as reporter:
        notifier.default_responder = respond_with_problem(status, code)
        with reporter.stream(first_report(), ignore) as stream, pytest.raises(ReportRejected, match="no"):
            await send(stream)
    assert len(notifier.requests) == 1


@pytest.mark.parametrize(
    "name", ["500 of the notifier", "503 of the notifier", "413 of a proxy", "HTML", "no verdicts"]
)
async def test_an_unusable_response_ends_its_connection(notifier: FakeNotifier, tmp_path: Path, name: str) -> None:
    """Each further attempt is a new connection, which may reach another replica; accepted reports share one."""
    async with reporting(notifier, tmp_path) as reporter:
        notifier.responders = [UNUSABLE_RESPONSES[name]] * 3
        with reporter.stream(first_report(), ignore) as stream:
            for _ in range(3):
                await send(stream)
    clients = notifier.clients["/reports"]
    assert len(set(clients)) == 4
    assert len(set(clients[3:])) == 1


@pytest.mark.parametrize("name", ["500 of the notifier", "503 of the notifier", "413 of a proxy", "no response"])
async def test_failing_report_does_not_hold_up_the_others(notifier: FakeNotifier, tmp_path: Path, name: str) -> None:
    """A report that makes each of its requests fail is soon alone; its outcome is kept until it is accepted."""
    async with reporting(notifier, tmp_path) as reporter, AsyncExitStack() as stack:
        failing = stack.enter_context(reporter.stream(first_report(), ignore))
        others = [stack.enter_context(reporter.stream(first_report(), ignore)) for _ in range(9)]
        notifier.default_responder = answer_job(failing.job_id, UNUSABLE_RESPONSES[name], notifier.accept)
        outcome = asyncio.create_task(send(failing, "succeeded", result=Json(b"7")))
        for _ in range(20):
            await asyncio.gather(*map(send, others))
        sizes = [len(reports) for reports in notifier.requests if failing.job_id in [r.job_id for r in reports]]
        assert len([size for size in sizes if size > 1]) <= 4  # of ten reports: 10, 5, 3, 2
        await wait_until(lambda: failing.failures >= 3)
        assert not outcome.done()
        notifier.default_responder = notifier.accept
        assert (await outcome).accepted
    assert {(report.status, bytes(report.result)) for report in notifier.reports(failing.job_id)} == {
        ("succeeded", b"7")
    }


async def test_failing_report_leaves_the_notifier_reachable(notifier: FakeNotifier, tmp_path: Path) -> None:
    """A worker whose only report fails accepts further jobs if the notifier is ready."""
    async with reporting(notifier, tmp_path) as reporter:
        with reporter.stream(first_report(), ignore) as failing, reporter.stream(first_report(), ignore) as other:
            notifier.default_responder = answer_job(failing.job_id, respond_with_status(500), notifier.accept)
            outcome = asyncio.create_task(send(failing, "succeeded"))
            async with asyncio.timeout(PATIENCE_S):
                await reporter.reachable.wait()
            assert (await send(other)).accepted
            assert not outcome.done()
            outcome.cancel()


async def test_failing_report_stays_alone_among_urgent_ones(notifier: FakeNotifier, tmp_path: Path) -> None:
    """Reports that are always due do not keep a report that failed alone from being sent again."""
    async with reporting(notifier, tmp_path) as reporter:
        with reporter.stream(first_report(), ignore) as failing, reporter.stream(first_report(), ignore) as other:
            notifier.default_responder = answer_job(failing.job_id, respond_with_status(500), notifier.accept)
            outcome = asyncio.create_task(send(failing, "succeeded"))
            await send(other)
            while failing.failures < 3:
                other.progress_changed(partial(Progress, 1, 2))
                await asyncio.sleep(0)
            notifier.default_responder = notifier.accept
            while not outcome.done():
                other.progress_changed(partial(Progress, 1, 2))
                await asyncio.sleep(0)
            assert outcome.result().accepted


async def test_a_frozen_notifier_costs_one_timeout(
    notifier: FakeNotifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request without a response is given up; the next one is sent over a new connection."""
    monkeypatch.setattr(reporter, "TIMEOUT", aiohttp.ClientTimeout(total=0.3))
    async with reporting(notifier, tmp_path) as running:
        with running.stream(first_report(), ignore) as stream:
            await send(stream)
            notifier.unblocked.clear()
            waiting = asyncio.create_task(send(stream, "succeeded"))
            await wait_until(lambda: len(notifier.requests) >= 3)
            notifier.unblocked.set()
            assert (await waiting).accepted
    assert notifier.clients["/reports"][1] != notifier.clients["/reports"][2]


async def test_an_outage_costs_no_more_requests_than_it_failed(notifier: FakeNotifier, tmp_path: Path) -> None:
    """Afterwards, the groups into which the reports were split are sent one after the other without a pause."""
    notifier.readyz_status = 503
    async with reporting(notifier, tmp_path) as reporter, AsyncExitStack() as stack:
        streams = [stack.enter_context(reporter.stream(first_report(), ignore)) for _ in range(100)]
        notifier.default_responder = respond_with_status(502)
        waiting = [asyncio.create_task(send(stream)) for stream in streams]
        await wait_until(lambda: len(notifier.requests) >= 8)
        notifier.default_responder = notifier.accept
        failed = len(notifier.requests) + notifier.in_flight
        await asyncio.gather(*waiting)
        assert len(notifier.requests) <= 2 * failed + 1
        count = len(notifier.requests)
        await asyncio.gather(*map(send, streams))
        assert len(notifier.requests) == count + 1


async def test_failure_between_two_halves_loses_no_report(notifier: FakeNotifier, tmp_path: Path) -> None:
    """If the notifier becomes unavailable while a rejected request is split, all its reports are sent again."""
    async with reporting(notifier, tmp_path) as reporter, AsyncExitStack() as stack:
        streams = [stack.enter_context(reporter.stream(first_report(), ignore)) for _ in range(4)]
        notifier.responders = [REJECT, respond_with_status(502)]
        verdicts = await asyncio.gather(*map(send, streams))
        assert [verdict.accepted for verdict in verdicts] == [True] * 4


async def test_invalid_report_does_not_affect_the_others(notifier: FakeNotifier, tmp_path: Path) -> None:
    """A rejected request is split in halves until the invalid report is alone; all other reports are accepted."""
    async with reporting(notifier, tmp_path) as reporter:
        initial = [first_report() for _ in range(9)]
        invalid = initial[4].job_id
        notifier.default_responder = answer_job(invalid, REJECT, notifier.accept)
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
        initial = first_report()
        with reporter.stream(initial, ignore) as stream:
            await send(stream)
            notifier.responders = [REJECT]
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
            streams = [stack.enter_context(reporter.stream(first_report(), ignore)) for _ in range(60)]
            await asyncio.gather(*(send(stream, "succeeded", result=large) for stream in streams))
        assert len(notifier.requests) > 1
        assert max(len(encode(reports)) for reports in notifier.requests) <= MAX_REPORTS_BYTES
        assert sum(map(len, notifier.requests)) == 60


async def test_running_job_sends_heartbeats(notifier: FakeNotifier, tmp_path: Path) -> None:
    """An unchanged job is reported once per heartbeat, so that the verdict can request its cancellation."""
    async with reporting(notifier, tmp_path, heartbeat_s=0.02) as reporter:
        initial = first_report()
        received: list[Verdict] = []
        with reporter.stream(initial, received.append) as stream:
            await send(stream)
            await wait_until(lambda: len(received) >= 4)
        sequences = [report.sequence for report in notifier.reports(initial.job_id)]
        assert sequences == list(range(1, len(sequences) + 1))


async def test_heartbeats_share_a_request(notifier: FakeNotifier, tmp_path: Path) -> None:
    """A request contains the heartbeats that are due soon, but not those of jobs that were reported just now."""
    async with reporting(notifier, tmp_path) as reporter, AsyncExitStack() as stack:
        early, recent, last = (stack.enter_context(reporter.stream(first_report(), ignore)) for _ in range(3))
        await asyncio.gather(send(early), send(recent))
        early.sent_at -= 0.8 * 60
        recent.sent_at -= 0.7 * 60
        await send(last)
        assert [report.job_id for report in notifier.requests[-1]] == [last.job_id, early.job_id]


async def test_the_notifier_asks_for_reports(notifier: FakeNotifier, tmp_path: Path) -> None:
    """Some jobs are reported at once, or all; each report names the worker."""
    async with reporting(notifier, tmp_path, worker_id="host-1") as reporter, AsyncExitStack() as stack:
        streams = [stack.enter_context(reporter.stream(first_report(), ignore)) for _ in range(3)]
        await asyncio.gather(*map(send, streams))
        count = len(notifier.requests)
        wanted = {str(stream.job_id) for stream in streams[1:]}
        reporter.report_now(wanted)
        await wait_until(lambda: len(notifier.requests) > count)
        assert {str(report.job_id) for report in notifier.requests[-1]} == wanted
        reporter.report_now()
        await wait_until(lambda: len(notifier.requests) > count + 1)
        assert len(notifier.requests[-1]) == 3
    assert {report.worker for reports in notifier.requests for report in reports} == {"host-1"}


async def test_a_shorter_heartbeat_takes_effect_at_once(notifier: FakeNotifier, tmp_path: Path) -> None:
    """When the control stream is lost, the reporter does not wait for the longer heartbeat to pass."""
    async with reporting(notifier, tmp_path) as reporter:
        with reporter.stream(first_report(), ignore) as stream:
            await send(stream)
            reporter.set_heartbeat(0.01)
            await wait_until(lambda: len(notifier.requests) > 3)


async def test_unwatched_progress_waits_for_the_heartbeat(notifier: FakeNotifier, tmp_path: Path) -> None:
    """Progress of an unwatched job causes no request of its own; it is sent with a heartbeat or a change of status."""
    notifier.watched = False
    async with reporting(notifier, tmp_path) as reporter:
        initial = first_report()
        with reporter.stream(initial, ignore) as stream, reporter.stream(first_report(), ignore) as other:
            await send(stream)
            for current in range(1000):
                stream.progress_changed(partial(Progress, current, 1000))
            await send(other)  # the first stream was not due for this request
            assert [report.progress for report in notifier.reports(initial.job_id)] == [None]
            await send(stream, "succeeded")
        assert notifier.reports(initial.job_id)[-1].progress == Progress(999, 1000)


async def test_reporter_without_streams_probes_the_notifier(notifier: FakeNotifier, tmp_path: Path) -> None:
    """`reachable` is set when the notifier is ready, even if the worker has nothing to report; a metric shows it."""
    notifier.readyz_status = 503
    async with reporting(notifier, tmp_path) as reporter:
        await wait_until(lambda: notifier.probe_count >= 3)
        assert not reporter.reachable.is_set()
        assert REGISTRY.get_sample_value("worker_notifier_unavailable") == 1
        notifier.readyz_status = 200
        async with asyncio.timeout(PATIENCE_S):
            await reporter.reachable.wait()
        assert REGISTRY.get_sample_value("worker_notifier_unavailable") == 0
        assert notifier.requests == []


async def test_an_idle_worker_checks_a_notifier_that_failed_elsewhere(notifier: FakeNotifier, tmp_path: Path) -> None:
    """It receives no jobs until the notifier is ready; with running jobs, their reports show whether it is."""
    async with reporting(notifier, tmp_path) as reporter:
        await reporter.reachable.wait()
        notifier.readyz_status = 503
        with reporter.stream(first_report(), ignore) as stream:
            await send(stream)
            reporter.check_notifier()
            assert reporter.reachable.is_set()
        reporter.check_notifier()
        count = notifier.probe_count
        await wait_until(lambda: notifier.probe_count > count)
        assert not reporter.reachable.is_set()
        notifier.readyz_status = 200
        async with asyncio.timeout(PATIENCE_S):
            await reporter.reachable.wait()


async def test_reports_use_the_connection_of_the_last_probe(notifier: FakeNotifier, tmp_path: Path) -> None:
    """It leads to a replica that was ready; a new one could lead back to the replica that has failed."""
    notifier.readyz_status = 503
    async with reporting(notifier, tmp_path) as reporter:
        await wait_until(lambda: notifier.probe_count >= 3)
        notifier.readyz_status = 200
        async with asyncio.timeout(PATIENCE_S):
            await reporter.reachable.wait()
        notifier.responders = [notifier.accept, respond_with_status(502)]
        with reporter.stream(first_report(), ignore) as stream:
            for _ in range(3):
                await send(stream)
    probes, reports = notifier.clients["/readyz"], notifier.clients["/reports"]
    assert len(set(probes)) == len(probes)
    assert reports == [probes[-2], probes[-2], probes[-1], probes[-1]]


async def test_report_waits_for_an_unreachable_notifier(notifier: FakeNotifier, tmp_path: Path) -> None:
    """The reporter retries refused connections until the notifier is reachable, and returns its verdict."""
    url, notifier.url = notifier.url, f"http://127.0.0.1:{free_ports(1)[0]}"
    refused = metrics.REPORT_REQUESTS.labels("unreachable")._value
    before = refused.get()
    async with reporting(notifier, tmp_path) as reporter:
        with reporter.stream(first_report(), ignore) as stream:
            waiting = asyncio.create_task(send(stream))
            await wait_until(lambda: refused.get() >= before + 3)
            reporter._url = url.rstrip("/")
            assert (await waiting).accepted


async def test_rotated_report_key_is_used_without_a_restart(notifier: FakeNotifier, tmp_path: Path) -> None:
    """The reporter retries after a 401 and reads the key file again."""
    async with reporting(notifier, tmp_path) as reporter:
        notifier.default_responder = respond_with_status(401)
        with reporter.stream(first_report(), ignore) as stream:
            waiting = asyncio.create_task(send(stream))
            await wait_until(lambda: len(notifier.requests) >= 2)
            (tmp_path / "new").write_text("the-new-key\n")
            (tmp_path / "new").replace(tmp_path / "report.key")
            await wait_until(lambda: "Bearer the-new-key" in notifier.authorizations)
            notifier.default_responder = notifier.accept
            assert (await waiting).accepted
