"""Progress URLs: workers in any language report a job's progress with one request without a body."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from redis.asyncio import Redis

from services.notifier.records.keys import job_key
from tests.integration.conftest import Notifier, report


async def report_progress(
    notifier: Notifier, job_id: str, progress: object, *, method: str = "GET", key: str | None = None, **more: str
) -> tuple[int, Any]:
    """Request the progress URL; return the status and the body of the response."""
    url = f"{notifier.internal}/progress/{notifier.report_key if key is None else key}"
    query = {"jobId": job_id, "progress": str(progress), **more}
    async with notifier.session.request(method, url, params=query) as response:
        return response.status, await response.json()


async def snapshot(notifier: Notifier, job_id: str) -> dict[str, Any]:
    """Return the job's snapshot, read over HTTP."""
    url, headers = f"{notifier.public}/live/jobs/{job_id}", {"Authorization": f"Bearer {notifier.token(job_id)}"}
    async with notifier.session.get(url, headers=headers) as response:
        body: dict[str, Any] = await response.json()
        return body


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_progress_alone_creates_and_ends_the_record(notifier: Notifier, redis: Redis, method: str) -> None:
    """The first request creates the record as `running`; a progress of 100 ends the job `succeeded`."""
    job_id = str(uuid.uuid4())
    status, verdict = await report_progress(notifier, job_id, 0, method=method)
    assert (status, verdict) == (
        200,
        {"job_id": job_id, "accepted": True, "reason": None, "cancel_requested": False, "watched": False},
    )
    first = await snapshot(notifier, job_id)
    assert (first["kind"], first["status"], first["progress"]["percent"]) == ("countdown", "running", 0.0)
    await report_progress(notifier, job_id, 12.5, message="an eighth & more", kind="backup", method=method)
    second = await snapshot(notifier, job_id)
    assert (second["kind"], second["started_at"]) == ("backup", first["started_at"])
    assert second["progress"] == {
        "current": 12.5,
        "total": 100,
        "percent": 12.5,
        "unit": "%",
        "message": "an eighth & more",
    }
    await report_progress(notifier, job_id, 100, method=method)
    last = await snapshot(notifier, job_id)
    assert (last["kind"], last["status"], last["submitted_at"]) == ("backup", "succeeded", first["submitted_at"])


async def test_progress_never_decreases(notifier: Notifier, redis: Redis) -> None:
    """A progress that is not greater than the last is rejected as `stale`, any progress after the end as `finished`."""
    job_id = str(uuid.uuid4())
    sent = (10, 30, 30, 20, 30.01, 100, 50)
    reasons = [(await report_progress(notifier, job_id, progress))[1]["reason"] for progress in sent]
    assert reasons == [None, None, "stale", "stale", None, None, "finished"]
    assert (await snapshot(notifier, job_id))["progress"]["percent"] == 100.0


async def test_generation_and_attempts_of_the_record_are_kept(notifier: Notifier, redis: Redis) -> None:
    """A progress URL has no such parameters, so the record keeps its values."""
    job_id = str(uuid.uuid4())
    redriven = {"generation": 3, "message_id": "progress", "attempt": 2, "max_attempts": 7}
    (verdict,) = await notifier.report(report(job_id, 1, **redriven))
    assert verdict["accepted"]
    assert (await report_progress(notifier, job_id, 50))[1]["accepted"]
    job = await snapshot(notifier, job_id)
    assert (job["generation"], job["attempt"], job["max_attempts"]) == (3, 2, 7)


async def test_record_of_a_queue_message_rejects_progress(notifier: Notifier, redis: Redis) -> None:
    """A progress URL cannot change a job that a worker has received from the queue: the reason is `duplicate`."""
    job_id = str(uuid.uuid4())
    await notifier.report(report(job_id, 1))
    assert (await report_progress(notifier, job_id, 50))[1]["reason"] == "duplicate"


async def test_worker_of_the_queue_takes_over(notifier: Notifier, redis: Redis) -> None:
    """A one-line worker may have the job from the queue, as a WebJob does; the next delivery continues its job.

    Afterwards its reports are rejected, as is another message of the first delivery.
    """
    job_id = str(uuid.uuid4())
    await report_progress(notifier, job_id, 40)
    (another,) = await notifier.report(report(job_id, 1))
    assert another["reason"] == "duplicate"
    (verdict,) = await notifier.report(report(job_id, 1, delivery=2, attempt=2))
    assert verdict["accepted"]
    assert (await report_progress(notifier, job_id, 50))[1]["reason"] == "duplicate"
    job = await snapshot(notifier, job_id)
    assert (job["attempt"], job["progress"]) == (2, None)
    assert [(past["attempt"], past["outcome"]) for past in job["earlier_attempts"]] == [(1, "lost")]


@pytest.mark.parametrize("fields", [{"status": "queued", "lease_until": None}, {"lease_until": "2026-01-01T00:00:00Z"}])
async def test_one_line_worker_takes_over(notifier: Notifier, redis: Redis, fields: dict[str, Any]) -> None:
    """It reports a job that a worker has released or lost: another attempt, whose progress begins from the start.

    Then the lost worker's reports are rejected, and the next delivery of its message is accepted.
    """
    job_id, progress = str(uuid.uuid4()), {"current": 60, "total": 100}
    await notifier.report(report(job_id, 1, delivery=3, attempt=3, progress=progress, **fields))
    for percent in (10, 20):
        assert (await report_progress(notifier, job_id, percent))[1]["accepted"]
    job = await snapshot(notifier, job_id)
    assert (job["status"], job["attempt"], job["progress"]["percent"]) == ("running", 4, 20.0)
    verdicts = [(await notifier.report(report(job_id, 2, delivery=delivery)))[0] for delivery in (3, 4)]
    assert [verdict["reason"] for verdict in verdicts] == ["duplicate", None]


async def test_cancelled_job_rejects_progress(notifier: Notifier, redis: Redis) -> None:
    """A job without a lease is cancelled at once, and its worker's next progress is rejected as `finished`."""
    job_id = str(uuid.uuid4())
    await report_progress(notifier, job_id, 10)
    url, headers = f"{notifier.public}/live/jobs/{job_id}/cancel", {"Authorization": f"Bearer {notifier.token(job_id)}"}
    async with notifier.session.post(url, headers=headers) as response:
        assert (response.status, (await response.json())["status"]) == (202, "cancelled")
    assert (await report_progress(notifier, job_id, 20))[1]["reason"] == "finished"


@pytest.mark.parametrize(
    ("field", "query"),
    [
        ("progress", {"progress": "101"}),
        ("progress", {"progress": "-1"}),
        ("progress", {"progress": "nan"}),
        ("progress", {"progress": "1e400"}),
        ("progress", {"progress": "half"}),
        ("progress", {"progress": ""}),
        ("jobId", {"jobId": "7"}),
        ("message", {"message": "x" * 1001}),
        ("kind", {"kind": ""}),
    ],
)
async def test_invalid_parameter_is_rejected(
    notifier: Notifier, redis: Redis, field: str, query: dict[str, str]
) -> None:
    """The response is 422 and names the parameter, and no record is created."""
    job_id = str(uuid.uuid4())
    url = f"{notifier.internal}/progress/{notifier.report_key}"
    params = {"jobId": job_id, "progress": "1"} | query
    async with notifier.session.get(url, params=params) as response:
        problem = await response.json()
    assert (response.status, problem["code"], problem["field"]) == (422, "invalid", field)
    assert await redis.exists(job_key(job_id)) == 0


async def test_unknown_report_key_is_rejected(notifier: Notifier, redis: Redis) -> None:
    """A request with an unknown report key gets 401 `unauthorized`."""
    status, problem = await report_progress(notifier, str(uuid.uuid4()), 1, key="guessed")
    assert (status, problem["code"]) == (401, "unauthorized")
