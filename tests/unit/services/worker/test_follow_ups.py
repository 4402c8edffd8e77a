"""Follow-up jobs, with a notifier and a submitter that answer over HTTP as the tests say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from headway import JobContext, job
from headway.contracts import (
    MAX_ERROR_LENGTH,
    MAX_NESTING_DEPTH,
    MAX_PAYLOAD_BYTES,
    EarlierAttempt,
    JobError,
    JobMessage,
    JobReport,
    JobSnapshot,
    Json,
    Progress,
    ProgressSnapshot,
    Timestamp,
    decode,
    encode,
    encode_snapshot,
    nesting_depth,
)
from headway.details import KeptJob
from headway.labels import Labels
from services.runtime.errors import problem_response
from services.runtime.settings import ReloadingFile, SettingsError, read_keys
from services.worker import metrics
from services.worker.follow_ups import FollowUps, payload_from_snapshot
from services.worker.registry import Registry
from tests.waiting import free_ports

NOW = Timestamp.parse("2026-01-01T00:00:00Z")
JOB_ID = UUID("126fc5e9-c2fb-425a-873b-75c8cad6d05b")
LABELS = Labels(name="March", owner="user:7", tags=("a", "b"))


def snapshot(**fields: Any) -> Json:
    """Return a snapshot of the job as clients see it."""
    defaults = {"id": JOB_ID, "kind": "export", "status": "succeeded", "version": 7, "submitted_at": NOW}
    return Json(encode_snapshot(JobSnapshot(**{**defaults, "expires_at": NOW, **fields})))


def kept(**fields: Any) -> KeptJob:
    """Return the job as the notifier has it: ended, unless the fields say otherwise."""
    defaults = {"status": "succeeded", "generation": 0, "kind": "export", "labels": LABELS, "snapshot": snapshot()}
    return KeptJob(**{**defaults, **fields})


class FakeServices:
    """A notifier and a submitter, with the same report key.

    Attributes:
        record: the job of the notifier, None if it has none.
        notifier_status, submitter_status: what they answer.
        bodies: the submissions.
        traces: the trace of each of them, None if it has none.
        requests: how many requests arrived.
        is_away: whether connections are lost instead of answered.
    """

    def __init__(self) -> None:
        self.url = ""
        self.record: KeptJob | None = kept()
        self.notifier_status, self.submitter_status = 200, 202
        self.bodies: list[dict[str, Any]] = []
        self.traces: list[str | None] = []
        self.requests = 0
        self.is_away = False

    async def read(self, request: web.Request) -> web.Response:
        """Handle `GET /jobs/{id}` of the notifier."""
        self.requests += 1
        if self.is_away and request.transport is not None:
            request.transport.abort()
        assert (request.match_info["id"], request.headers["Authorization"]) == (str(JOB_ID), "Bearer first")
        if self.record is None:
            return problem_response(404, "unknown", "This job has no record.")
        return web.Response(status=self.notifier_status, body=encode(self.record))

    async def submit(self, request: web.Request) -> web.Response:
        """Handle `POST /jobs` of the submitter."""
        self.requests += 1
        assert (request.content_type, request.headers["Authorization"]) == ("application/json", "Bearer first")
        self.bodies.append(await request.json())
        self.traces.append(request.headers.get("traceparent"))
        return web.Response(status=self.submitter_status, headers={"Location": "/"})


@pytest.fixture
async def services() -> AsyncIterator[FakeServices]:
    """Serve both services on one port."""
    fake, app = FakeServices(), web.Application()
    app.add_routes([web.get("/jobs/{id}", fake.read), web.post("/jobs", fake.submit)])
    async with TestServer(app) as server:
        fake.url = str(server.make_url(""))
        yield fake


@job("export", on_end="mail")
async def export(_ctx: JobContext, _payload: Any) -> None:
    """Be followed by another job."""


@job("plain")
async def plain(_ctx: JobContext, _payload: Any) -> None:
    """Be followed by no job."""


@pytest.fixture
def keys(tmp_path: Path) -> ReloadingFile[tuple[str, ...]]:
    """Return two report keys, of which the first one is used."""
    (tmp_path / "report.key").write_text("first\nsecond\n")
    return ReloadingFile(tmp_path / "report.key", read_keys)


Keys = ReloadingFile[tuple[str, ...]]
REGISTRY: Registry = {export.kind: export, plain.kind: plain}


async def submit(url: str, submitter_url: str | None, keys: Keys, *, ended_here: bool = True, **fields: Any) -> bool:
    """Submit the follow-up job of a message; return whether the message is of no more use."""
    registry = REGISTRY if submitter_url else {plain.kind: plain}
    message = JobMessage(id=JOB_ID, **{"kind": "export", **fields})
    async with FollowUps.connect(url, submitter_url, keys, registry) as follow_ups:
        return await follow_ups.submit(message, end_of(message) if ended_here else None)


def end_of(message: JobMessage, **fields: Any) -> JobReport:
    """Return the report of the end of a job."""
    return JobReport(
        job_id=message.id,
        kind=message.kind,
        generation=message.generation,
        message_id="m",
        delivery=1,
        sequence=2,
        submitted_at=NOW,
        expires_at=NOW,
        labels=LABELS,
        **{"status": "succeeded", **fields},
    )


def failures() -> float:
    """Return how many submissions have failed."""
    return float(metrics.FOLLOW_UPS.labels("failed")._value.get())


async def test_the_submitter_gets_the_snapshot(services: FakeServices, keys: Keys) -> None:
    """The follow-up job has the snapshot as its payload, and the owner and the tags of the record."""
    assert await submit(services.url, services.url, keys)
    (body,) = services.bodies
    assert body == {
        "id": "936bd308-8eab-5a57-91a9-1c204dbd7e67",
        "kind": "mail",
        "payload": decode(bytes(snapshot()), dict),
        "owner": "user:7",
        "tags": ["a", "b"],
    }


async def test_each_generation_has_one_follow_up_job(services: FakeServices, keys: Keys) -> None:
    """A repeated submission has the same id; a redriven job is followed by another one, and so is another job."""
    for generation in (0, 0, 1):
        services.record = kept(generation=generation)
        assert await submit(services.url, services.url, keys, generation=generation)
    first, second, third = (body["id"] for body in services.bodies)
    assert first == second != third


async def test_a_follow_up_job_belongs_to_the_same_trace(services: FakeServices, keys: Keys) -> None:
    """The submission names the span of the ended job's submission, if that is valid."""
    traceparent = f"00-{'1' * 32}-{'2' * 16}-01"
    for labels in (Labels(trace=traceparent), Labels(trace="text"), None):
        assert await submit(services.url, services.url, keys, labels=labels)
    assert services.traces == [traceparent, None, None]


async def test_the_kind_of_a_submission_wins(services: FakeServices, keys: Keys) -> None:
    """The message names the kind of the follow-up job; otherwise the decorator of the job does."""
    for kind in ("export", "plain", "unknown"):
        assert await submit(services.url, services.url, keys, kind=kind, on_end="tell")
    assert await submit(services.url, services.url, keys)
    assert [body["kind"] for body in services.bodies] == ["tell", "tell", "tell", "mail"]


@pytest.mark.parametrize("ended_here", [True, False])
@pytest.mark.parametrize("kind", ["plain", "unknown"])
async def test_a_job_without_on_end_costs_nothing(
    services: FakeServices, keys: Keys, kind: str, ended_here: bool
) -> None:
    """No request is sent."""
    assert await submit(services.url, services.url, keys, kind=kind, ended_here=ended_here)
    assert services.requests == 0


@pytest.mark.parametrize(
    ("record", "submits", "submits_if_ended_here"),
    [
        (kept(generation=1), True, True),
        (kept(generation=1, status="cancelled"), True, True),
        (kept(generation=2, status="running"), False, False),
        (kept(generation=2), False, False),
        (kept(generation=1, status="running"), False, True),
        (kept(generation=0), False, True),
        (None, False, True),
    ],
    ids=["ended", "cancelled", "redriven", "ended again", "of another message", "older record", "no record"],
)
async def test_the_record_decides(
    services: FakeServices, keys: Keys, record: KeptJob | None, submits: bool, submits_if_ended_here: bool
) -> None:
    """Only the end of the message's generation is followed by a job, also if Redis has lost it after this delivery.

    The message is of no more use: if it was delivered again, an accepted job would run a second time.
    """
    services.record = record
    assert await submit(services.url, services.url, keys, generation=1, ended_here=False)
    assert len(services.bodies) == submits
    services.bodies.clear()
    assert await submit(services.url, services.url, keys, generation=1)
    assert len(services.bodies) == submits_if_ended_here


async def test_the_report_of_a_lost_end_is_the_snapshot(services: FakeServices, keys: Keys) -> None:
    """The follow-up job has the same id, labels and payload as with the record, but for its times and its version."""
    message = JobMessage(id=JOB_ID, kind="export")
    report = end_of(
        message, status="failed", attempt=2, error=JobError("Fail", "no"), progress=Progress(1, 4, "files", "One")
    )
    services.record = kept(
        status="failed",
        snapshot=snapshot(
            status="failed",
            attempt=2,
            error=JobError("Fail", "no"),
            progress=ProgressSnapshot(1, 4, 25.0, "files", "One"),
            name="March",
        ),
    )
    async with FollowUps.connect(services.url, services.url, keys, REGISTRY) as follow_ups:
        assert await follow_ups.submit(message, report)
        services.record = None
        assert await follow_ups.submit(message, report)
    with_record, without = services.bodies
    times = {name: without["payload"][name] for name in ("version", "updated_at", "finished_at")}
    assert None not in times.values()
    with_record["payload"] |= times
    assert without == with_record


async def test_service_that_does_not_answer_occupies_one_slot(services: FakeServices, keys: Keys) -> None:
    """After one failure the other deliveries fail at once, until one that asks again gets an answer."""
    message = JobMessage(id=JOB_ID, kind="export")
    async with FollowUps.connect(services.url, services.url, keys, REGISTRY) as follow_ups:

        async def submit_many(count: int) -> tuple[int, int]:
            """Submit at the same time; return how many deliveries asked in vain, and how many succeeded."""
            with capture_logs() as lines:
                results = await asyncio.gather(*(follow_ups.submit(message, end_of(message)) for _ in range(count)))
            return len(lines) - results.count(True), results.count(True)

        services.is_away, before = True, failures()
        assert await submit_many(1) == (1, 0)
        assert await submit_many(20) == (0, 0)
        assert failures() - before == 21
        for is_away, expected in ((True, (1, 0)), (False, (0, 1))):
            services.is_away = is_away
            follow_ups._away_until = time.monotonic()  # as some seconds later
            assert await submit_many(20) == expected
        assert await submit_many(20) == (0, 20)


@pytest.mark.parametrize(
    ("notifier_status", "submitter_status"),
    [(503, 202), (401, 202), (404, 202), (302, 202), (200, 503), (200, 401), (200, 404), (200, 422), (200, 303)],
)
async def test_without_an_answer_the_message_is_kept(
    services: FakeServices, keys: Keys, notifier_status: int, submitter_status: int
) -> None:
    """A service that is unavailable, or of an older version, does not lose the follow-up job; operators see it."""
    services.notifier_status, services.submitter_status = notifier_status, submitter_status
    before = failures()
    with capture_logs() as logs:
        assert not await submit(services.url, services.url, keys)
    assert [(line["event"], line["on_end"], line["log_level"]) for line in logs] == [
        ("follow_up_failed", "mail", "warning")
    ]
    assert failures() == before + 1


@pytest.mark.parametrize("is_notifier_away", [True, False])
async def test_a_service_that_is_away_does_not_end_the_worker(
    services: FakeServices, keys: Keys, is_notifier_away: bool
) -> None:
    """A refused connection is a failure like any other."""
    (port,) = free_ports(1)
    away = f"http://127.0.0.1:{port}"
    urls = (away, services.url) if is_notifier_away else (services.url, away)
    assert not await submit(*urls, keys)


async def test_a_worker_without_the_submitter_keeps_the_message(services: FakeServices, keys: Keys) -> None:
    """Another worker may know the submitter, or this one will after a restart."""
    with capture_logs() as logs:
        assert not await submit(services.url, None, keys, kind="plain", on_end="mail")
    assert [line["error"] for line in logs] == ["SUBMITTER_INTERNAL_URL is not set"]
    assert services.bodies == []


async def test_a_job_with_on_end_needs_the_submitter(keys: Keys) -> None:
    """A worker without its address does not start, because it could never delete the messages of such jobs."""
    with pytest.raises(SettingsError, match=r"^SUBMITTER_INTERNAL_URL is missing: the job 'export' has on_end$"):
        async with FollowUps.connect("http://notifier", None, keys, REGISTRY):
            pass


def test_a_snapshot_that_fits_is_the_payload() -> None:
    """It is passed on byte for byte."""
    fitting = snapshot(result=Json(encode("x" * 30_000)))
    assert bytes(payload_from_snapshot(fitting)) == bytes(fitting)


@pytest.mark.parametrize(
    "result",
    [encode("x" * MAX_PAYLOAD_BYTES), b"[" * MAX_NESTING_DEPTH + b"]" * MAX_NESTING_DEPTH],
    ids=["large", "deep"],
)
def test_a_result_that_does_not_fit_is_left_out(result: bytes) -> None:
    """Everything else stays, and the payload still is a snapshot."""
    payload = bytes(payload_from_snapshot(snapshot(result=Json(result))))
    assert payload == bytes(snapshot()).replace(b'"result":null,', b"")
    assert decode(payload, JobSnapshot).status == "succeeded"


@given(st.sampled_from("x\x01é😀"), st.integers(0, MAX_ERROR_LENGTH), st.integers(0, 1000), st.integers(1, 128))
def test_every_snapshot_fits(character: str, error: int, message: int, name: int) -> None:
    """A control character takes six bytes, so that the texts alone may be larger than a payload."""
    attempt = EarlierAttempt(attempt=1, ended_at=NOW, outcome="failed", error=character * name)
    full = snapshot(
        status="failed",
        kind=character * name,
        error=JobError(character * name, character * error),
        progress=ProgressSnapshot(1, 2, 50.0, character * 32, character * message),
        earlier_attempts=(attempt,) * 5,
    )
    payload = bytes(payload_from_snapshot(full))
    assert len(payload) <= MAX_PAYLOAD_BYTES
    assert nesting_depth(payload) <= MAX_NESTING_DEPTH
    assert decode(payload, JobSnapshot).error == JobError(character * name, character * error)
