"""The details of a job over HTTP, with a store in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from headway.contracts import EarlierAttempt, JobError, JobMessage, JobSnapshot, Json, StepTimes, encode_snapshot
from headway.labels import Labels
from headway.message_codec import encode_message
from services.notifier.records.details import AttemptError, AttemptKey, JobDetails
from services.notifier.records.record_read import RecordRead
from services.notifier.transports.details import DetailsHandler, details_body
from tests.unit.services.notifier.transports.listed_jobs import NOW, Jobs, job_id, list_token
from tests.unit.services.notifier.transports.notifier_parts import Replica
from tests.unit.services.runtime.http_app import Client, serve

JOB = job_id(1)
HIDDEN = JobError("InternalError", "The job failed unexpectedly.")
TRUE = JobError("KeyError", "'zip'")
MESSAGE = encode_message(JobMessage(id=JOB, payload=Json(b'{"to":"Ann"}'), checkpoint=Json(b"[7]")))
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Details:
    """The served handler."""

    def __init__(self, keys: Path) -> None:
        self.client: Client
        self.jobs, self.replica = Jobs(), Replica(keys)
        jobs: Any = self.jobs
        self.routes = DetailsHandler(jobs, self.replica.auth).routes()

    async def get(self, token: str, job: Any = JOB) -> tuple[int, Any]:
        """Return the status and the body."""
        headers = {"Authorization": f"Bearer {token}"}
        async with self.client.get(f"/live/jobs/{job}/details", headers=headers) as response:
            assert response.headers.get("Cache-Control") == "no-store" or response.status >= 400
            return response.status, await response.json(content_type=None)


@pytest.fixture
async def details(keys: Path) -> AsyncIterator[Details]:
    """Serve the handler behind the middleware of every listener."""
    details = Details(keys)
    async with serve(*details.routes) as details.client:
        yield details


async def test_details_need_their_scope_and_a_matching_record(details: Details) -> None:
    """A token of the job or a list token opens them."""
    details.jobs.put(1, status="failed", error=HIDDEN, error_type="KeyError")
    signer = details.replica.signer
    for token in (
        details.replica.token(JOB, scope=frozenset({"watch", "details"})),
        list_token(signer, "list details"),
    ):
        status, body = await details.get(token)
        assert (status, body["error"]["type"], body["labels"]) == (200, "KeyError", {"owner": "anna"})
    refused = [
        (details.replica.token(JOB), JOB, (403, "forbidden")),
        (list_token(signer, "list watch"), JOB, (403, "forbidden")),
        (list_token(signer, "list details", owner="bert"), JOB, (403, "forbidden")),
        (list_token(signer, "list details"), job_id(2), (404, "unknown")),
        (details.replica.token(job_id(2), scope=frozenset({"watch", "details"})), job_id(2), (404, "unknown")),
        (list_token(signer, "list details"), "2", (404, "not_found")),
        ("a.b.c", JOB, (401, "invalid_token")),
    ]
    for token, job, problem in refused:
        status, body = await details.get(token, job)
        assert (status, body["code"]) == problem
    details.jobs.failure = RedisConnectionError("lost")
    assert (await details.get(list_token(signer, "list details")))[0] == 503


def record(status: Any = "failed", labels: bytes | None = None, **fields: Any) -> RecordRead:
    """Return the record of a job that had an attempt before."""
    snapshot = JobSnapshot(
        id=JOB,
        kind="k",
        status=status,
        version=1,
        attempt=2,
        submitted_at=NOW,
        expires_at=NOW.after(60),
        updated_at=NOW.after(9),
        **{"started_at": NOW.after(5), "error": HIDDEN, **fields},
        earlier_attempts=(
            EarlierAttempt(attempt=1, started_at=NOW, ended_at=NOW.after(4), outcome="failed", error="InternalError"),
        ),
    )
    return RecordRead(encode_snapshot(snapshot), b'"k"', labels, b"host-1", b'"KeyError"')


CURRENT = AttemptKey(attempt=2, started_at=NOW.after(5))
FIRST = AttemptError(attempt=1, started_at=NOW, error=JobError("OSError", "no route"))
STEPS = (StepTimes("read", NOW.after(5), NOW.after(6)), StepTimes("write", NOW.after(6)))
STORED = JobDetails(
    attempt=CURRENT, error=TRUE, traceback="line 7", steps=STEPS, message=MESSAGE, earlier_errors=(FIRST,)
)


def test_details_have_the_true_errors_of_all_attempts() -> None:
    """The payload and the checkpoint are those of the kept message."""
    labels = f'{{"owner":"ann","trace":"{TRACE}"}}'.encode()
    body = details_body(record(labels=labels, finished_at=NOW.after(9)), STORED)
    assert body is not None
    assert (body.labels, body.trace_id) == (Labels(owner="ann", trace=TRACE), TRACE[3:35])
    assert (body.kept, bytes(body.payload), bytes(body.checkpoint)) == (True, b'{"to":"Ann"}', b"[7]")
    assert body.error is not None
    assert (body.error.type, body.error.message, body.error.traceback) == ("KeyError", "'zip'", "line 7")
    assert (body.worker, body.steps) == ("host-1", STEPS)
    attempts = [(one.attempt, one.outcome, one.ended_at, one.error and one.error.message) for one in body.attempts]
    assert attempts == [(1, "failed", NOW.after(4), "no route"), (2, "failed", NOW.after(9), "'zip'")]


def test_details_of_another_attempt_are_not_those_of_the_current_one() -> None:
    """The next attempt has started, or the job was redriven: the last error is that of an earlier attempt now."""
    stored = JobDetails(attempt=AttemptKey(attempt=1, started_at=NOW), error=TRUE, traceback="line 7", steps=STEPS)
    body = details_body(record("running", error=None), stored)
    assert body is not None
    assert (body.error, body.steps, body.kept, bytes(body.payload)) == (None, (), False, b"null")
    attempts = [(one.attempt, one.outcome, one.error and one.error.message) for one in body.attempts]
    assert attempts == [(1, "failed", "'zip'"), (2, None, None)]
    again = details_body(record("queued", error=None, started_at=None, generation=1), STORED)
    assert again is not None
    assert [(one.attempt, one.outcome) for one in again.attempts] == [(1, "failed")]


def test_without_details_the_record_says_what_it_has() -> None:
    """They can be lost. An attempt that waits for the next one, or was released, has ended with its last report."""
    body = details_body(record("retrying"), JobDetails())
    assert body is not None
    assert body.error is not None
    assert (body.error.type, body.error.message, body.error.traceback) == ("KeyError", HIDDEN.message, None)
    first, second = body.attempts
    assert first.error is not None
    assert (first.error.type, first.error.message) == ("InternalError", None)
    assert (second.outcome, second.ended_at, body.trace_id) == ("failed", NOW.after(9), None)
    released = details_body(record("queued", error=None), JobDetails(message="no message"))
    assert released is not None
    assert (released.attempts[1].outcome, released.kept, bytes(released.payload)) == ("released", True, b"null")
    assert details_body(RecordRead(b"{}", b"1", None), STORED) is None
