"""The submission client against a real HTTP server: what it posts, when it gives up, and that callers never wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import structlog.testing
from aiohttp import web
from aiohttp.test_utils import TestServer

from headway.contracts import MAX_REPORTS_BYTES, SubmittedJob, Timestamp, encode
from headway.labels import Labels
from services.runtime.settings import ReloadingFile, read_keys
from services.runtime.wakeup_client import WakeupClient
from services.submitter import submissions as module
from services.submitter.metrics import SUBMISSIONS_POSTED
from services.submitter.submissions import SubmissionClient
from tests.waiting import free_ports, wait_until

NOW = Timestamp.parse("2026-01-01T00:00:00Z")
LARGEST: Any = {"kind": "é" * 128, "labels": Labels(name="😀" * 200, owner="o" * 128, tags=("ü" * 64,) * 8)}


def submitted(kind: str = "test", labels: Labels | None = None) -> SubmittedJob:
    """Return a submitted job."""
    return SubmittedJob(id=uuid4(), kind=kind, labels=labels, submitted_at=NOW, expires_at=NOW.after(60))


class FakeNotifier:
    """Keeps the submissions and counts the wake-ups; answers submissions while `answering` is set."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[list[dict[str, Any]]] = []
        self.sizes: list[int] = []
        self.statuses: list[int] = []  # of the next responses; afterwards 204
        self.wakeups = 0
        self.answering = asyncio.Event()
        self.answering.set()

    async def submissions(self, request: web.Request) -> web.Response:
        """Handle `POST /submissions`."""
        assert (request.headers["Authorization"], request.query["queue"]) == ("Bearer first", "mail")
        assert request.content_type == "application/json"
        body = await request.read()
        self.sizes.append(len(body))
        self.requests.append(msgspec.json.decode(body))
        await self.answering.wait()
        status = self.statuses.pop(0) if self.statuses else 204
        return web.Response(status=status, headers={"Location": "/wake"} if status == 302 else None)

    async def wake(self, request: web.Request) -> web.Response:
        """Handle `POST /wake`."""
        assert "Authorization" not in request.headers
        self.wakeups += 1
        return web.Response(status=204)

    @property
    def ids(self) -> list[UUID]:
        """The ids of all submissions, in their order."""
        return [UUID(job["id"]) for jobs in self.requests for job in jobs]


@pytest.fixture
async def notifier() -> AsyncIterator[FakeNotifier]:
    """Serve a fake notifier."""
    fake, app = FakeNotifier(), web.Application(client_max_size=2 * MAX_REPORTS_BYTES)
    app.add_routes([web.post("/submissions", fake.submissions), web.post("/wake", fake.wake)])
    async with TestServer(app) as server:
        fake.url = str(server.make_url(""))
        yield fake


@pytest.fixture
def keys(tmp_path: Path) -> ReloadingFile[tuple[str, ...]]:
    """Return two report keys, of which the first one is used."""
    (tmp_path / "report.key").write_text("first\nsecond\n")
    return ReloadingFile(tmp_path / "report.key", read_keys)


@asynccontextmanager
async def running(url: str | None, keys: ReloadingFile[tuple[str, ...]] | None) -> AsyncIterator[SubmissionClient]:
    """Run a client and its wake-ups; their tasks must survive all failures."""
    async with (
        WakeupClient.connect(url, "mail") as wakeups,
        SubmissionClient.connect(url, keys, "mail", wakeups) as client,
    ):
        tasks = [asyncio.create_task(run()) for run in (client.run, wakeups.run)]
        try:
            yield client
        finally:
            for task in tasks:
                assert not task.done(), task
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


def counts() -> dict[str, float]:
    """Return the metric of the posted submissions."""
    (metric,) = SUBMISSIONS_POSTED.collect()
    return {sample.labels["outcome"]: sample.value for sample in metric.samples if sample.name.endswith("_total")}


def difference(before: dict[str, float]) -> dict[str, float]:
    """Return what has been counted since."""
    return {outcome: count - before[outcome] for outcome, count in counts().items() if count != before[outcome]}


async def test_submissions_during_a_request_share_the_next_one(
    notifier: FakeNotifier, keys: ReloadingFile[tuple[str, ...]]
) -> None:
    """One request is in flight; the next ones have up to 500 jobs, in their order, and imply the wake-ups."""
    before, jobs = counts(), [submitted() for _ in range(1200)]
    notifier.answering.clear()
    async with running(notifier.url, keys) as client:
        client.notify(jobs[0], 0)
        await wait_until(lambda: notifier.requests)
        for job in jobs[1:]:
            client.notify(job, 0)
        await asyncio.sleep(0)
        assert len(notifier.requests) == 1
        notifier.answering.set()
        await wait_until(lambda: len(notifier.ids) == 1200)
    assert notifier.ids == [job.id for job in jobs]
    assert [len(request) for request in notifier.requests] == [1, 500, 500, 199]
    assert notifier.requests[0] == [msgspec.json.decode(encode(jobs[0]))]
    assert (notifier.wakeups, difference(before)) == (0, {"accepted": 1200})


async def test_a_request_is_no_larger_than_the_limit(
    notifier: FakeNotifier, keys: ReloadingFile[tuple[str, ...]]
) -> None:
    """500 jobs with long labels do not fit into one request."""
    async with running(notifier.url, keys) as client:
        for _ in range(500):
            client.notify(submitted(**LARGEST), 0)
        await wait_until(lambda: len(notifier.ids) == 500)
    assert len(notifier.requests) > 1
    assert max(notifier.sizes) <= MAX_REPORTS_BYTES


@pytest.mark.parametrize("statuses", [[503], [500, 502]])
async def test_a_restart_of_the_notifier_is_bridged(
    notifier: FakeNotifier,
    keys: ReloadingFile[tuple[str, ...]],
    statuses: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the notifier is unavailable, a request is repeated; a wake-up is sent at once."""
    monkeypatch.setattr(module, "MAX_BACKOFF_S", 0.01)
    before, notifier.statuses = counts(), list(statuses)
    with structlog.testing.capture_logs() as logs:
        async with running(notifier.url, keys) as client:
            client.notify(job := submitted(), 0)
            await wait_until(lambda: difference(before) == {"accepted": 1})
            await wait_until(lambda: notifier.wakeups)
    assert notifier.ids == [job.id] * (len(statuses) + 1)
    assert [line["event"] for line in logs] == ["submissions_failed"]


@pytest.mark.parametrize("status", [302, 401, 404, 413, 422])
async def test_a_refusal_falls_back_to_a_wakeup(
    notifier: FakeNotifier, keys: ReloadingFile[tuple[str, ...]], status: int
) -> None:
    """A notifier without this endpoint, or one that refuses a request, gets a wake-up; two refusals are logged once."""
    before, notifier.statuses = counts(), [status] * 2
    with structlog.testing.capture_logs() as logs:
        async with running(notifier.url, keys) as client:
            for count in (1, 2):
                client.notify(submitted(), 0)
                await wait_until(lambda count=count: notifier.wakeups == count)  # type: ignore[misc]
            client.notify(submitted(), 0)
            await wait_until(lambda: difference(before) == {"failed": 2, "accepted": 1})
    assert (len(notifier.requests), notifier.wakeups) == (3, 2)
    assert [(line["event"], line["error"]) for line in logs] == [("submissions_failed", f"status {status}")]


async def test_an_unavailable_notifier_is_ignored(
    notifier: FakeNotifier, keys: ReloadingFile[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the submissions are given up, and later ones arrive."""
    monkeypatch.setattr(module, "RETRY_FOR_S", 0.0)
    before = counts()
    async with running(f"http://127.0.0.1:{free_ports(1)[0]}", keys) as client:
        client.notify(submitted(), 0)
        await wait_until(lambda: difference(before) == {"failed": 1})
        client._url = f"{notifier.url}/submissions"
        client.notify(job := submitted(), 0)
        await wait_until(lambda: notifier.ids == [job.id])


@pytest.mark.parametrize("has_url", [True, False])
async def test_without_a_key_or_a_url_there_are_only_wakeups(notifier: FakeNotifier, has_url: bool) -> None:
    """A submitter without the report key sends wake-ups, as version 0.1; without a URL it sends nothing."""
    async with running(notifier.url if has_url else None, None) as client:
        client.notify(submitted(), 0)
    assert (notifier.requests, notifier.wakeups) == ([], int(has_url))


async def test_a_delayed_job_is_posted_at_once_and_woken_later(
    notifier: FakeNotifier, keys: ReloadingFile[tuple[str, ...]]
) -> None:
    """Lists show a delayed job at once. Its wake-up is sent when the message becomes visible."""
    async with running(notifier.url, keys) as client:
        client.notify(job := submitted(), 60)
        await wait_until(lambda: notifier.ids == [job.id])
        assert len(client._wakeups._scheduled) == 1
    assert notifier.wakeups == 0


async def test_a_job_is_posted_before_the_caller_goes_on(
    notifier: FakeNotifier, keys: ReloadingFile[tuple[str, ...]]
) -> None:
    """A redriven job is queued for its watchers; if the notifier is unavailable, that follows in the background."""
    first, second = submitted(), submitted()
    async with running(notifier.url, keys) as client:
        await client.post(first)
        assert notifier.ids == [first.id]
        notifier.statuses = [503]
        await client.post(second)
        await wait_until(lambda: notifier.ids == [first.id, second.id, second.id])
    async with running(None, keys) as client:
        await client.post(first)


async def test_pending_submissions_are_bounded(
    notifier: FakeNotifier, keys: ReloadingFile[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the notifier does not answer, the newest submissions are kept."""
    monkeypatch.setattr(module, "MAX_PENDING", 3)
    before, jobs = counts(), [submitted() for _ in range(5)]
    async with running(notifier.url, keys) as client:
        for job in jobs:
            client.notify(job, 0)
        await wait_until(lambda: len(notifier.ids) == 3)
    assert notifier.ids == [job.id for job in jobs[2:]]
    assert difference(before) == {"dropped": 2, "accepted": 3}


async def test_pending_submissions_are_posted_on_exit(
    notifier: FakeNotifier, keys: ReloadingFile[tuple[str, ...]]
) -> None:
    """What is in flight or pending when the service stops is posted again; a repetition changes nothing."""
    first, second = submitted(), submitted()
    notifier.answering.clear()
    async with running(notifier.url, keys) as client:
        client.notify(first, 0)
        await wait_until(lambda: notifier.requests)
        client.notify(second, 0)
        asyncio.get_running_loop().call_later(0.01, notifier.answering.set)
    assert notifier.ids == [first.id, first.id, second.id]
