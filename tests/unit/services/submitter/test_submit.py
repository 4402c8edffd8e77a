"""`POST /jobs`: which callers may give a job an owner and tags, and the submissions of workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from azure.core.exceptions import ServiceRequestError
from msgspec.structs import replace

from headway.azure.job_queue import JobQueue
from headway.contracts import JobMessage, Timestamp
from headway.grants import ListGrant
from headway.labels import ALL_JOBS, Labels
from headway.message_codec import decode_message
from headway.tokens import TokenSigner, make_keys
from services.runtime.settings import ReloadingFile, read_keys
from services.runtime.wakeup_client import WakeupClient
from services.submitter import job_sender as job_sender_module
from services.submitter.api_keys import key_digest
from services.submitter.job_sender import JobSender
from services.submitter.links import Links
from services.submitter.settings import SubmitterSettings
from services.submitter.submissions import SubmissionClient
from services.submitter.submit import InternalSubmitHandler, SubmitHandler
from tests.unit.services.runtime.http_app import Client, read_problem, serve
from tests.unit.services.submitter.callers import session_auth, submitter_settings

LABELS = {"name": "March", "owner": "user:7", "tags": ["a"]}


class FakeQueue:
    """Keeps the messages that are sent to it."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.is_available = True
        self.is_silent = False

    async def send(self, text: str, *, delay_s: int) -> None:
        """Keep a message."""
        assert delay_s == 0
        if not self.is_available:
            raise ServiceRequestError("unavailable")
        if self.is_silent:
            await asyncio.Event().wait()
        self.messages.append(text)

    @property
    def jobs(self) -> list[JobMessage]:
        """The decoded messages."""
        return [decode_message(message) for message in self.messages]

    @property
    def labels(self) -> list[Labels | None]:
        """The labels of the messages."""
        return [job.labels for job in self.jobs]


@asynccontextmanager
async def job_sender(settings: SubmitterSettings, queue: FakeQueue) -> AsyncIterator[JobSender]:
    """Yield a sender of jobs without a notifier."""
    make_keys(settings.token_key_file.parent)
    async with (
        WakeupClient.connect(None, "jobs") as wakeups,
        SubmissionClient.connect(None, None, "jobs", wakeups) as submissions,
    ):
        signer = ReloadingFile(settings.token_key_file, TokenSigner)
        yield JobSender(settings, Links(settings), cast(JobQueue, queue), signer, submissions)


@asynccontextmanager
async def served(folder: Path, queue: FakeQueue, **env: str) -> AsyncIterator[Client]:
    """Serve the handler with API keys, or with other settings."""
    settings = submitter_settings(folder, TOKEN_KEY_FILE=str(folder / "token.pem"), **env)
    async with job_sender(settings, queue) as sender:
        handler = SubmitHandler(session_auth(settings, folder / "token.pub.pem"), sender)
        async with serve(*handler.routes()) as client:
            yield client


@asynccontextmanager
async def served_to_workers(folder: Path, queue: FakeQueue, *, has_keys: bool = True) -> AsyncIterator[Client]:
    """Serve the handler of the internal listener, with a report key."""
    settings = submitter_settings(folder, TOKEN_KEY_FILE=str(folder / "token.pem"))
    (folder / "report.key").write_text("first\nsecond\n")
    keys = ReloadingFile(folder / "report.key", read_keys) if has_keys else None
    async with job_sender(settings, queue) as sender, serve(*InternalSubmitHandler(keys, sender).routes()) as client:
        yield client


async def submit(client: Client, key: str | None, **fields: Any) -> tuple[int, str | None, str | None]:
    """Submit a job; return the status, and the code and the field of a problem."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with client.post("/jobs", json={"kind": "test", **fields}, headers=headers) as response:
        problem = {} if response.status == 202 else await read_problem(response)
        return response.status, problem.get("code"), problem.get("field")


async def test_a_session_submits_as_its_key(tmp_path: Path) -> None:
    """Its token needs the scope `operate` and a key that exists; a token that stands for no key submits nothing."""
    queue = FakeQueue()
    async with served(tmp_path, queue) as client:
        signer, now = TokenSigner((tmp_path / "token.pem").read_text()), Timestamp.now()

        def token(scope: str, key: str | None = "ops") -> str:
            grant = ListGrant(filter=ALL_JOBS, issued_at=now, expires_at=now.after(60), scope=frozenset(scope.split()))
            return signer.sign(replace(grant, key_id=key and key_digest(key)[:16], signed_in_at=now))

        assert (await submit(client, token("list details operate"), **LABELS))[0] == 202
        assert (await submit(client, token("list details")))[:2] == (403, "forbidden")
        assert (await submit(client, token("list operate", key=None)))[:2] == (403, "forbidden")
        assert (await submit(client, token("list operate", key="old")))[:2] == (401, "unauthorized")
    assert [labels and labels.owner for labels in queue.labels] == ["user:7"]


@pytest.mark.parametrize(
    ("env", "keys"),
    [({}, ("app", "ops")), ({"SUBMITTER_OPEN": "true", "DASHBOARD_OPEN": "true"}, (None, "app"))],
    ids=["with keys", "open dashboard"],
)
async def test_a_trusted_caller_sets_all_labels(
    tmp_path: Path, env: dict[str, str], keys: tuple[str | None, ...]
) -> None:
    """With an API key, or where the dashboard is open, a job gets a name, an owner and tags."""
    async with served(tmp_path, queue := FakeQueue(), **env) as client:
        for key in keys:
            assert (await submit(client, key, **LABELS))[0] == 202
    assert queue.labels == [Labels(name="March", owner="user:7", tags=("a",))] * 2


async def test_anyone_who_may_submit_sets_a_name_only(tmp_path: Path) -> None:
    """Without an API key, a job has no owner and no tags, by which tokens of other users would find it."""
    async with served(tmp_path, queue := FakeQueue(), SUBMITTER_OPEN="true") as client:
        assert await submit(client, None, owner="user:7") == (403, "forbidden", "owner")
        assert await submit(client, "app", tags=["a"]) == (403, "forbidden", "tags")
        for name in (" ", "March\n", "\x1b[31m"):
            assert await submit(client, None, name=name) == (422, "invalid", "name")
        assert (await submit(client, None, name="March", owner=None, tags=[]))[0] == 202
        form, headers = {"kind": "test", "name": "April", "tags": ""}, {"Origin": "https://jobs.example"}
        async with client.post("/jobs", data=form, headers=headers, allow_redirects=False) as response:
            assert response.status == 303
        async with client.post("/jobs", data={**form, "tags": "a"}, headers=headers) as response:
            assert (response.status, (await read_problem(response))["field"]) == (403, "tags")
    assert queue.labels == [Labels(name="March"), Labels(name="April")]


async def test_reserved_kinds_are_not_submitted(tmp_path: Path) -> None:
    """Only Headway itself submits jobs of its built-in kinds, which may act on all jobs; a key does not help."""
    async with served(tmp_path, queue := FakeQueue()) as client:
        for key in ("app", "ops"):
            assert await submit(client, key, kind="headway.bulk") == (422, "invalid", "kind")
        headers = {"Authorization": "Bearer ops", "Origin": "https://jobs.example"}
        async with client.post("/jobs", data={"kind": "headway.bulk"}, headers=headers) as response:
            assert (response.status, (await read_problem(response))["field"]) == (422, "kind")
    assert queue.messages == []


async def test_a_hundred_thousand_tags_are_refused_before_they_are_read(tmp_path: Path) -> None:
    """As JSON and as a form they exceed the limit of a body, which the header of the request says."""
    async with served(tmp_path, queue := FakeQueue()) as client:
        headers = {"Authorization": "Bearer app", "Origin": "https://jobs.example"}
        bodies = {
            "application/json": b'{"kind":"test","tags":[%s"a"]}' % (b'"a",' * 99_999),
            "application/x-www-form-urlencoded": b"kind=test" + b"&tags=a" * 100_000,
        }
        for media_type, body in bodies.items():
            async with client.post("/jobs", data=body, headers={**headers, "Content-Type": media_type}) as response:
                assert (response.status, (await read_problem(response))["code"]) == (413, "too_large")
    assert queue.messages == []


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_the_trace_context_of_a_request_is_a_label(tmp_path: Path) -> None:
    """A retry in another trace is the same job, and an invalid header is ignored, as the standard demands."""
    traces = [TRACE, TRACE.replace("01", "00"), TRACE.upper(), f"{TRACE}-x", "00-{}", ""]
    ids = set()
    async with served(tmp_path, queue := FakeQueue()) as client:
        for trace in traces:
            headers = {"Authorization": "Bearer app", "Idempotency-Key": "k", "traceparent": trace}
            async with client.post("/jobs", json={"kind": "test"}, headers=headers) as response:
                ids.add((await response.json())["id"])
    assert queue.labels == [*(Labels(trace=trace) for trace in traces[:2]), None, None, None, None]
    assert len(ids) == 1


async def test_an_open_dashboard_does_not_open_submissions(tmp_path: Path) -> None:
    """With `SUBMITTER_API_KEYS`, a submission needs a key, whatever `DASHBOARD_OPEN` says."""
    async with served(tmp_path, FakeQueue(), DASHBOARD_OPEN="true") as client:
        assert await submit(client, None) == (401, "unauthorized", None)


async def test_a_worker_chooses_the_id(tmp_path: Path) -> None:
    """A repeated submission is another message of the same job. It may have labels, and gets the same receipt."""
    body = {"kind": "test", "id": str(uuid4()), "payload": [1], **LABELS}
    async with served_to_workers(tmp_path, queue := FakeQueue()) as client:
        for key in ("first", "second"):
            headers = {"Authorization": f"Bearer {key}", "traceparent": TRACE}
            async with client.post("/jobs", json=body, headers=headers) as response:
                receipt = await response.json()
                assert (response.status, receipt["id"], receipt["status"]) == (202, body["id"], "queued")
                assert response.headers["Location"] == f"/jobs/{body['id']}"
                assert {"token", "links"} < receipt.keys()
    labels = Labels(name="March", owner="user:7", tags=("a",), trace=TRACE)
    assert [(str(job.id), job.kind, bytes(job.payload), job.labels) for job in queue.jobs] == [
        (body["id"], "test", b"[1]", labels)
    ] * 2


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"id": "7"}, 422, "id"),
        ({"id": None}, 422, "id"),
        ({"kind": ""}, 422, "kind"),
        ({"payload": "x" * 32_768}, 413, "payload"),
        ({"by": "a worker"}, 422, "by"),
    ],
)
async def test_an_invalid_submission_of_a_worker_names_the_field(
    tmp_path: Path, fields: dict[str, Any], status: int, field: str
) -> None:
    """Nothing is sent; the limits are those of callers."""
    body, headers = {"kind": "test", "id": str(uuid4()), **fields}, {"Authorization": "Bearer first"}
    async with (
        served_to_workers(tmp_path, queue := FakeQueue()) as client,
        client.post("/jobs", json=body, headers=headers) as response,
    ):
        assert (response.status, (await read_problem(response)).get("field")) == (status, field)
    assert queue.messages == []


@pytest.mark.parametrize("has_keys", [True, False])
async def test_a_worker_needs_a_report_key(tmp_path: Path, has_keys: bool) -> None:
    """An API key is none; a submitter without report keys refuses all submissions of workers."""
    body = {"kind": "test", "id": str(uuid4())}
    async with served_to_workers(tmp_path, queue := FakeQueue(), has_keys=has_keys) as client:
        for key in ["app", "ops", *([] if has_keys else ["first"])]:
            async with client.post("/jobs", json=body, headers={"Authorization": f"Bearer {key}"}) as response:
                assert (response.status, (await read_problem(response))["code"]) == (401, "unauthorized")
    assert queue.messages == []


async def test_without_the_queue_a_worker_is_asked_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is 503, also if the queue is silent; a later repetition of the request is the same job."""
    monkeypatch.setattr(job_sender_module, "SEND_TIMEOUT_S", 0.01)
    body, headers = {"kind": "test", "id": str(uuid4())}, {"Authorization": "Bearer first"}
    async with served_to_workers(tmp_path, queue := FakeQueue()) as client:
        for is_available, is_silent, status in ((False, False, 503), (True, True, 503), (True, False, 202)):
            queue.is_available, queue.is_silent = is_available, is_silent
            async with client.post("/jobs", json=body, headers=headers) as response:
                assert response.status == status
    assert [str(job.id) for job in queue.jobs] == [body["id"]]
