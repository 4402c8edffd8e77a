"""The poison queue over HTTP, and the erasure of jobs, which may have messages there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from azure.core.exceptions import ServiceRequestError
from msgspec.structs import replace

from headway.contracts import Json, Timestamp, encode
from headway.labels import JobFilter, Labels
from headway.message_codec import encode_message
from services.submitter.operations import poison as module
from tests.unit.headway.azure.memory_queue import message_id
from tests.unit.services.submitter.operations.operated_jobs import Answer, message, operated_jobs
from tests.waiting import wait_until

LABELS = Labels(name="March", owner="user:7")


def code_of(answer: Answer) -> tuple[int, Any, Any]:
    """Return the status of an answer, and the code and the field of its problem."""
    status, problem = answer
    return status, problem.get("code"), problem.get("field")


async def test_operators_see_the_poison_queue(tmp_path: Path) -> None:
    """A job with several messages is one entry; one that cannot be read has the reason instead of a kind."""
    job = message(payload=Json(b'{"month":3}'), labels=LABELS, generation=1, submitted_at=Timestamp(1000))
    async with operated_jobs(tmp_path, job, replace(job, generation=0), "garbage") as system:
        answered, body = await system.ask("GET", "/poison")
        assert (answered, body["next"], body["complete"]) == (200, None, True)
        shown, unreadable = body["jobs"]
        assert shown == {
            "id": str(job.id),
            "kind": "export",
            "name": "March",
            "generation": 1,
            "submitted_at": "1970-01-01T00:00:01.000Z",
            "inserted_at": "1970-01-01T00:00:01.000Z",
            "labels": {"name": "March", "owner": "user:7"},
            "payload": {"month": 3},
            "payload_bytes": 11,
            "messages": 2,
            "problem": None,
        }
        assert (unreadable["id"], unreadable["kind"], unreadable["payload"]) == (message_id(3), None, None)
        assert unreadable["problem"]
        assert len(system.poison.visible) == 3
        assert code_of(await system.ask("GET", "/poison?cursor=2")) == (422, "invalid", "cursor")


async def test_a_long_queue_is_not_shown_completely(tmp_path: Path) -> None:
    """A peek returns 32 messages, and a large payload is left out."""
    large = message(payload=Json(encode("x" * 5000)))
    async with operated_jobs(tmp_path, large, *(message() for _ in range(32))) as system:
        _, body = await system.ask("GET", "/poison")
        assert (len(body["jobs"]), body["complete"]) == (32, False)
        shown = next(job for job in body["jobs"] if job["id"] == str(large.id))
        assert (shown["payload"], shown["payload_bytes"]) == (None, 5002)


async def test_a_token_shows_its_jobs_only(tmp_path: Path) -> None:
    """Payload and labels are for the scope `details`; a message that cannot be read matches an empty filter only."""
    own, theirs = message(labels=LABELS), message(labels=Labels(owner="user:8"))
    async with operated_jobs(tmp_path, own, theirs, "garbage") as system:
        system.headers = system.token(JobFilter(owner="user:7"))
        _, body = await system.ask("GET", "/poison")
        assert [(job["id"], job["name"], job["labels"], job["payload"]) for job in body["jobs"]] == [
            (str(own.id), "March", None, None)
        ]
        for text in (str(theirs.id), message_id(3)):
            assert code_of(await system.ask("DELETE", f"/poison/{text}")) == (403, "forbidden", None)
        assert (await system.ask("DELETE", f"/poison/{own.id}"))[0] == 204
        assert len(system.poison.visible) == 2
        system.headers = system.token(JobFilter(), "details")
        _, body = await system.ask("GET", "/poison")
        assert [(job["labels"], job["payload"]) for job in body["jobs"]] == [({"owner": "user:8"}, {}), (None, None)]


async def test_a_discarded_job_leaves_the_poison_queue(tmp_path: Path) -> None:
    """All its messages are deleted, by its id or by that of a message; the second time it is not found."""
    job, other = message(), message()
    async with operated_jobs(tmp_path, job, replace(job, generation=1), other, "garbage") as system:
        with structlog.testing.capture_logs() as logs:
            for text in (str(job.id), message_id(4)):
                assert (await system.ask("DELETE", f"/poison/{text}"))[0] == 204
                assert code_of(await system.ask("DELETE", f"/poison/{text}")) == (404, "unknown", None)
        lines = [(line["action"], line["job_id"], line["by"]) for line in logs if line["event"] == "operator_action"]
        assert lines == [("discard", str(job.id), "alice"), ("discard", message_id(4), "alice")]
        assert [one.text for one in system.poison.messages.values()] == [encode_message(other)]


async def test_an_erased_job_leaves_nothing_behind(tmp_path: Path) -> None:
    """The notifier erases it, and its poison messages are deleted, also those that cannot be read."""
    job, lost, other = message(), message(), message()
    async with operated_jobs(tmp_path, job, replace(job, generation=1), lost, other) as system:
        system.notifier.keep(job)
        with structlog.testing.capture_logs() as logs:
            assert (await system.ask("DELETE", f"/jobs/{job.id}"))[0] == 204
            assert (await system.ask("DELETE", f"/jobs/{job.id}"))[0] == 204
            assert (await system.ask("DELETE", f"/jobs/{lost.id}"))[0] == 204
        assert system.notifier.records[job.id].message is None
        assert [one.text for one in system.poison.messages.values()] == [encode_message(other)]
        assert [line["by"] for line in logs if line.get("action") == "erase"] == ["alice"] * 3
        assert (await system.ask("POST", f"/jobs/{job.id}/redrive"))[1]["code"] == "payload_not_kept"


async def test_the_id_of_a_message_is_not_that_of_a_job(tmp_path: Path) -> None:
    """A poison message can be discarded by its id, but only the id of a job runs it again or erases it."""
    async with operated_jobs(tmp_path, message()) as system:
        for method, path in (("POST", "/redrive"), ("POST", "/rerun"), ("DELETE", "")):
            answer = await system.ask(method, f"/jobs/{message_id(1)}{path}", None)
            assert code_of(answer) == (404, "unknown", None)
        assert (system.jobs.sent, len(system.poison.visible)) == ([], 1)
        assert (await system.ask("DELETE", f"/poison/{message_id(1)}"))[0] == 204


async def test_an_erasure_is_logged_although_the_poison_queue_is_unavailable(tmp_path: Path) -> None:
    """The record is erased by then, and the caller must repeat the request."""
    async with operated_jobs(tmp_path, job := message()) as system:
        system.notifier.keep(job)
        system.poison.forbidden = "receive"
        with structlog.testing.capture_logs() as logs:
            assert code_of(await system.ask("DELETE", f"/jobs/{job.id}")) == (503, "unavailable", None)
        assert [line["job_id"] for line in logs if line.get("action") == "erase"] == [str(job.id)]


async def test_an_empty_poison_queue_is_not_leased(tmp_path: Path) -> None:
    """So a submitter that may only read it erases jobs, and redrives those that have kept their message."""
    async with operated_jobs(tmp_path) as system:
        system.poison.forbidden = "receive"
        job_id = system.notifier.keep(message())
        assert (await system.ask("DELETE", f"/jobs/{job_id}"))[0] == 204


async def test_requests_share_a_reading_of_the_queue(tmp_path: Path) -> None:
    """An action on many jobs without kept messages does not read the queue once for each."""
    jobs = [message() for _ in range(8)]
    async with operated_jobs(tmp_path, *jobs) as system:
        for job in jobs:
            system.notifier.keep(job, message=None)
        system.poison.blocking = "peek"
        requests = [asyncio.create_task(system.ask("POST", f"/jobs/{job.id}/rerun")) for job in jobs]
        await wait_until(system.poison.blocked.is_set)
        system.poison.unblock.set()
        assert {answered for answered, _ in await asyncio.gather(*requests)} == {202}
        assert system.poison.peeks == 1


async def test_what_was_read_is_not_used_for_a_job_that_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later failure has left another message, and an erasure none; after a while, the queue is read again."""
    changed, erased, discarded, old = jobs = [message() for _ in range(4)]
    async with operated_jobs(tmp_path, *jobs) as system:
        for job in jobs:
            system.notifier.keep(job, message=None)
        assert (await system.ask("POST", f"/jobs/{old.id}/rerun"))[0] == 202
        system.notifier.keep(changed, message=None, generation=1)
        assert (await system.ask("POST", f"/jobs/{changed.id}/rerun"))[0] == 202
        assert system.poison.peeks == 2
        system.notifier.keep(erased, message=None, erased=True)
        answer = await system.ask("POST", f"/jobs/{erased.id}/rerun")
        assert code_of(answer) == (409, "payload_not_kept", "payload")
        assert (await system.ask("DELETE", f"/poison/{discarded.id}"))[0] == 204
        answer = await system.ask("POST", f"/jobs/{discarded.id}/rerun")
        assert code_of(answer) == (409, "payload_not_kept", "payload")
        assert system.poison.peeks == 3
        monkeypatch.setattr(module, "MAX_AGE_S", 0.01)
        system.poisoned._reading = None
        assert (await system.ask("POST", f"/jobs/{old.id}/rerun"))[0] == 202
        await wait_until(lambda: system.poisoned._reading is None)


async def test_requests_wait_for_others_for_a_limited_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that would be repeated meanwhile is refused, and does nothing later."""
    monkeypatch.setattr(module, "MAX_WAIT_S", 0.01)
    async with operated_jobs(tmp_path, job := message(), other := message()) as system:
        system.poison.blocking = "peek"
        first = asyncio.create_task(system.ask("POST", f"/jobs/{job.id}/redrive"))
        await wait_until(system.poison.blocked.is_set)
        for method, path in (("POST", "/redrive"), ("POST", "/rerun"), ("DELETE", "")):
            answer = await system.ask(method, f"/jobs/{other.id}{path}")
            assert code_of(answer) == (503, "unavailable", None)
        system.poison.unblock.set()
        assert (await first)[0] == 202
        assert [one.id for one in system.sent] == [job.id]


async def test_a_job_that_has_not_ended_is_not_erased(tmp_path: Path) -> None:
    """A worker copies a message to the poison queue before it reports the failure, so the messages stay, too."""
    job = message()
    async with operated_jobs(tmp_path, job) as system:
        system.notifier.keep(job, "running")
        assert code_of(await system.ask("DELETE", f"/jobs/{job.id}")) == (409, "not_ended", None)
        assert len(system.poison.visible) == 1
        assert system.notifier.records[job.id].message is not None


async def test_messages_that_another_command_has_leased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is to be repeated: a job that is not found may be among them, and an erased one must be erased."""
    monkeypatch.setattr(module, "MAX_WAIT_S", 0.01)
    lost, erased = message(), message()
    async with operated_jobs(tmp_path, lost, message()) as system:
        system.notifier.keep(erased)
        leased = await system.poison.receive(2, 60, create=False)
        for method, path in (
            ("POST", f"/jobs/{lost.id}/redrive"),
            ("POST", f"/jobs/{lost.id}/rerun"),
            ("DELETE", f"/jobs/{lost.id}"),
            ("DELETE", f"/jobs/{erased.id}"),
            ("DELETE", f"/poison/{lost.id}"),
        ):
            assert code_of(await system.ask(method, path)) == (503, "unavailable", None)
        assert not system.jobs.sent
        for received in leased:
            await system.poison.update(received.id, received.pop_receipt, 0)
        assert (await system.ask("POST", f"/jobs/{lost.id}/redrive"))[0] == 202


async def test_an_unavailable_queue(tmp_path: Path) -> None:
    """The error is one of HTTP, and says when to try again."""
    async with operated_jobs(tmp_path, job := message()) as system:
        system.jobs.error = ServiceRequestError("unavailable")
        assert code_of(await system.ask("POST", f"/jobs/{job.id}/redrive")) == (503, "unavailable", None)
        assert len(system.poison.visible) == 1
