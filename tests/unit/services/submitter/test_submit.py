"""`POST /jobs`: which callers may give a job an owner and tags."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from headway.azure.job_queue import JobQueue
from headway.labels import Labels
from headway.message_codec import decode_message
from headway.tokens import TokenSigner, make_keys
from services.runtime.settings import ReloadingFile
from services.runtime.wakeup_client import WakeupClient
from services.submitter.links import Links
from services.submitter.submissions import SubmissionClient
from services.submitter.submit import SubmitHandler
from tests.unit.services.runtime.http_app import Client, read_problem, serve
from tests.unit.services.submitter.callers import caller_auth, submitter_settings

LABELS = {"name": "March", "owner": "user:7", "tags": ["a"]}


class FakeQueue:
    """Keeps the messages that are sent to it."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    async def send(self, text: str, *, delay_s: int) -> None:
        """Keep a message."""
        assert delay_s == 0
        self.messages.append(text)

    @property
    def labels(self) -> list[Labels | None]:
        """The labels of the messages."""
        return [decode_message(message).labels for message in self.messages]


@asynccontextmanager
async def served(folder: Path, queue: FakeQueue, **env: str) -> AsyncIterator[Client]:
    """Serve the handler with API keys, or with other settings."""
    make_keys(folder)
    settings = submitter_settings(folder, **env)
    signer = ReloadingFile(folder / "token.pem", TokenSigner)
    async with (
        WakeupClient.connect(None, "jobs") as wakeups,
        SubmissionClient.connect(None, None, "jobs", wakeups) as submissions,
    ):
        handler = SubmitHandler(
            settings, Links(settings), cast(JobQueue, queue), signer, caller_auth(settings), submissions
        )
        async with serve(*handler.routes()) as client:
            yield client


async def submit(client: Client, key: str | None, **fields: Any) -> tuple[int, str | None, str | None]:
    """Submit a job; return the status, and the code and the field of a problem."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with client.post("/jobs", json={"kind": "test", **fields}, headers=headers) as response:
        problem = {} if response.status == 202 else await read_problem(response)
        return response.status, problem.get("code"), problem.get("field")


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
