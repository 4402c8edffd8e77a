"""One-line reports: a job's progress as one URL, for workers in any language."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from redis.asyncio import Redis

from services.notifier.records.keys import job_key
from tests.integration.conftest import Notifier, report


async def tell(
    notifier: Notifier, job_id: str, progress: object, *, method: str = "GET", key: str | None = None, **more: str
) -> tuple[int, Any]:
    """Report one line; return the status and the body."""
    url = f"{notifier.internal}/progress/{notifier.report_key if key is None else key}"
    query = {"jobId": job_id, "progress": str(progress), **more}
    async with notifier.session.request(method, url, params=query) as response:
        return response.status, await response.json()


async def snapshot(notifier: Notifier, job_id: str) -> dict[str, Any]:
    """Return the job as a watcher sees it."""
    url, headers = f"{notifier.public}/live/jobs/{job_id}", {"Authorization": f"Bearer {notifier.token(job_id)}"}
    async with notifier.session.get(url, headers=headers) as response:
        body: dict[str, Any] = await response.json()
        return body


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_job_goes_from_queued_to_succeeded(notifier: Notifier, redis: Redis, method: str) -> None:
    """Nothing but a progress makes a record: running until 100, which is the end."""
    job_id = str(uuid.uuid4())
    status, verdict = await tell(notifier, job_id, 0, method=method)
    assert (status, verdict) == (
        200,
        {"job_id": job_id, "accepted": True, "reason": None, "cancel_requested": False, "watched": False},
    )
    first = await snapshot(notifier, job_id)
    assert (first["kind"], first["status"], first["progress"]["percent"]) == ("countdown", "running", 0.0)
    await tell(notifier, job_id, 12.5, message="an eighth & more", kind="backup", method=method)
    second = await snapshot(notifier, job_id)
    assert (second["kind"], second["started_at"]) == ("backup", first["started_at"])
    assert second["progress"] == {
        "current": 12.5,
        "total": 100,
        "percent": 12.5,
        "unit": "%",
        "message": "an eighth & more",
    }
    await tell(notifier, job_id, 100, method=method)
    last = await snapshot(notifier, job_id)
    assert (last["kind"], last["status"], last["submitted_at"]) == ("backup", "succeeded", first["submitted_at"])


async def test_repeated_and_reordered_lines_move_nothing_back(notifier: Notifier, redis: Redis) -> None:
    """Each further line must say more than the last; behind the end there is nothing."""
    job_id = str(uuid.uuid4())
    verdicts = [(await tell(notifier, job_id, progress))[1]["reason"] for progress in (10, 30, 30, 20, 30.01, 100, 50)]
    assert verdicts == [None, None, "stale", "stale", None, None, "finished"]
    assert (await snapshot(notifier, job_id))["progress"]["percent"] == 100.0


async def test_lines_keep_the_generation_and_the_attempts_of_the_record(notifier: Notifier, redis: Redis) -> None:
    """A line knows nothing of these, so the record's stand; a record that another message holds refuses it."""
    job_id = str(uuid.uuid4())
    again = {"generation": 3, "message_id": "progress", "attempt": 2, "max_attempts": 7}
    (verdict,) = await notifier.report(report(job_id, 1, **again))
    assert verdict["accepted"]
    assert (await tell(notifier, job_id, 50))[1]["accepted"]
    shown = await snapshot(notifier, job_id)
    assert (shown["generation"], shown["attempt"], shown["max_attempts"]) == (3, 2, 7)
    other = str(uuid.uuid4())
    await notifier.report(report(other, 1))
    assert (await tell(notifier, other, 50))[1]["reason"] == "duplicate"


async def test_a_cancelled_job_takes_no_more_lines(notifier: Notifier, redis: Redis) -> None:
    """Nobody holds a lease on such a job: it is cancelled at once, and its worker hears so."""
    job_id = str(uuid.uuid4())
    await tell(notifier, job_id, 10)
    url, headers = f"{notifier.public}/live/jobs/{job_id}/cancel", {"Authorization": f"Bearer {notifier.token(job_id)}"}
    async with notifier.session.post(url, headers=headers) as response:
        assert (response.status, (await response.json())["status"]) == (202, "cancelled")
    assert (await tell(notifier, job_id, 20))[1]["reason"] == "finished"


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
async def test_a_line_that_does_not_fit_is_told_which_field(
    notifier: Notifier, redis: Redis, field: str, query: dict[str, str]
) -> None:
    """The problem names the parameter, and nothing is recorded."""
    job_id = str(uuid.uuid4())
    url = f"{notifier.internal}/progress/{notifier.report_key}"
    params = {"jobId": job_id, "progress": "1"} | query
    async with notifier.session.get(url, params=params) as response:
        problem = await response.json()
    assert (response.status, problem["code"], problem["field"]) == (422, "invalid", field)
    assert await redis.exists(job_key(job_id)) == 0


async def test_a_line_needs_a_report_key(notifier: Notifier, redis: Redis) -> None:
    """Another key is nobody's."""
    status, problem = await tell(notifier, str(uuid.uuid4()), 1, key="guessed")
    assert (status, problem["code"]) == (401, "unauthorized")
