"""Redrives and reruns over HTTP: what the new message has, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog.testing
from azure.core.exceptions import ServiceRequestError
from msgspec.structs import replace

from headway.contracts import MAX_NESTING_DEPTH, NULL, JobStatus, Json, Progress, Timestamp, encode
from headway.labels import JobFilter, Labels
from headway.message_codec import encode_message, message_json
from headway.message_rewriting import rewrite_message
from services.submitter.metrics import OPERATOR_ACTIONS
from tests.unit.services.submitter.operations.operated_jobs import message, operated_jobs
from tests.waiting import wait_until

TOO_DEEP = MAX_NESTING_DEPTH + 1
LABELS = Labels(name="March", owner="user:7", tags=("a",))
FULL = message(
    payload=Json(b'{"month":3}'),
    submitted_at=Timestamp(1000),
    expires_at=Timestamp(2000),
    generation=2,
    max_attempts=3,
    timeout_s=60,
    on_end="mail",
    releases=4,
    checkpoint=Json(b'{"page":7}'),
    drains=2,
    progress=Progress(1, 2),
    progress_attempt=1,
    labels=LABELS,
)


def code_of(answer: tuple[int, dict[str, object]]) -> tuple[int, object, object]:
    """Return the status of an answer, and the code and the field of its problem."""
    status, problem = answer
    return status, problem.get("code"), problem.get("field")


@pytest.mark.parametrize("from_start", [False, True])
async def test_a_redrive_sends_the_kept_message(tmp_path: Path, *, from_start: bool) -> None:
    """It has the next generation, all its attempts, a new lifetime, no progress, and the checkpoint unless refused."""
    async with operated_jobs(tmp_path) as system:
        system.notifier.keep(FULL, message=rewrite_message(encode_message(FULL), newer="kept"))
        body = {"from_start": True} if from_start else None
        with structlog.testing.capture_logs() as logs:
            count = OPERATOR_ACTIONS.labels("redrive")._value.get()
            answer = await system.ask("POST", f"/jobs/{FULL.id}/redrive", body)
        assert answer == (202, {"id": str(FULL.id), "generation": 3, "status": "queued"})
        (sent,) = system.sent
        fresh: dict[str, Any] = {
            "releases": 0,
            "drains": 0,
            "progress": None,
            "progress_attempt": None,
        }
        checkpoint = NULL if from_start else FULL.checkpoint
        assert sent == replace(FULL, **fresh, generation=3, checkpoint=checkpoint, expires_at=sent.expires_at)
        assert sent.expires_at is not None
        assert abs(sent.expires_at - Timestamp.now().after(7 * 86_400)) < 60_000
        assert b'"newer":"kept"' in message_json(system.jobs.sent[0])
        (submitted,) = system.notifier.submissions  # before the answer: watchers see that the job waits
        assert (submitted["id"], submitted["generation"], submitted["max_attempts"]) == (str(FULL.id), 3, 3)
        (line,) = [line for line in logs if line["event"] == "operator_action"]
        assert (line["action"], line["job_id"], line["by"]) == ("redrive", str(FULL.id), "alice")
        assert OPERATOR_ACTIONS.labels("redrive")._value.get() == count + 1


async def test_the_generation_is_above_that_of_the_record_and_of_the_message(tmp_path: Path) -> None:
    """The fence accepts only a generation that it has not seen."""
    async with operated_jobs(tmp_path) as system:
        job_id = system.notifier.keep(message(generation=2), generation=5)
        assert (await system.ask("POST", f"/jobs/{job_id}/redrive"))[1]["generation"] == 6
        job_id = system.notifier.keep(message(generation=7), generation=5)
        assert (await system.ask("POST", f"/jobs/{job_id}/redrive"))[1]["generation"] == 8


@pytest.mark.parametrize("status", ["queued", "running", "retrying"])
async def test_a_job_that_has_not_ended_is_not_redriven(tmp_path: Path, status: JobStatus) -> None:
    """Its message is still on the queue, or its handler runs."""
    async with operated_jobs(tmp_path, message()) as system:
        job_id = system.notifier.keep(message(), status)
        assert code_of(await system.ask("POST", f"/jobs/{job_id}/redrive")) == (409, "not_ended", None)
        assert not system.jobs.sent
        assert not system.notifier.submissions


async def test_a_job_that_has_changed_is_not_redriven(tmp_path: Path) -> None:
    """A bulk action that is sent twice redrives a job once, because it names the generation that it has seen."""
    async with operated_jobs(tmp_path) as system:
        job_id = system.notifier.keep(message(generation=3))
        for generation in (0, 2, 4):
            answer = await system.ask("POST", f"/jobs/{job_id}/redrive", {"generation": generation})
            assert code_of(answer) == (409, "changed", "generation")
        assert (await system.ask("POST", f"/jobs/{job_id}/redrive", {"generation": 3}))[0] == 202
        assert len(system.sent) == 1


async def test_two_redrives_at_once_send_one_message(tmp_path: Path) -> None:
    """The second one is refused while the first one waits for the queue."""
    async with operated_jobs(tmp_path) as system:
        job_id = system.notifier.keep(message())
        system.jobs.blocking = "send"
        first = asyncio.create_task(system.ask("POST", f"/jobs/{job_id}/redrive"))
        await wait_until(system.jobs.blocked.is_set)
        assert code_of(await system.ask("POST", f"/jobs/{job_id}/redrive")) == (409, "not_ended", None)
        system.jobs.unblock.set()
        assert (await first)[0] == 202
        assert len(system.sent) == 1


async def test_an_unknown_job_is_not_found(tmp_path: Path) -> None:
    """It has no record, and is not on the poison queue."""
    async with operated_jobs(tmp_path, message()) as system:
        for method, path in (("POST", "/redrive"), ("POST", "/rerun"), ("DELETE", "")):
            assert code_of(await system.ask(method, f"/jobs/{uuid4()}{path}")) == (404, "unknown", None)
            assert code_of(await system.ask(method, f"/jobs/x{path}")) == (404, "not_found", "id")
        assert len(system.poison.visible) == 1


async def test_a_job_whose_payload_was_not_kept(tmp_path: Path) -> None:
    """It cannot be redriven; a rerun needs a payload, and keeps what the record has."""
    async with operated_jobs(tmp_path) as system:
        job_id = system.notifier.keep(
            message(labels=LABELS, max_attempts=3), message=None, snapshot={"started_at": Timestamp(1)}
        )
        assert code_of(await system.ask("POST", f"/jobs/{job_id}/redrive")) == (409, "payload_not_kept", None)
        assert code_of(await system.ask("POST", f"/jobs/{job_id}/rerun")) == (409, "payload_not_kept", "payload")
        assert (await system.ask("POST", f"/jobs/{job_id}/rerun", {"payload": [1]}))[0] == 202
        unset = system.notifier.keep(message(), message=None)
        assert (await system.ask("POST", f"/jobs/{unset}/rerun", {"payload": None}))[0] == 202
        sent = [(one.kind, one.labels, bytes(one.payload), one.max_attempts) for one in system.sent]
        assert sent == [("export", LABELS, b"[1]", 3), ("export", None, b"null", None)]


async def test_a_job_on_the_poison_queue_is_redriven(tmp_path: Path) -> None:
    """Its poison messages are deleted, with a record that has kept no message, and without a record."""
    known, lost = message(generation=1), message(generation=4)
    async with operated_jobs(tmp_path, known, lost, replace(lost, generation=0), message()) as system:
        system.notifier.keep(known, message=None, generation=2)
        assert (await system.ask("POST", f"/jobs/{known.id}/redrive"))[1]["generation"] == 3
        answer = await system.ask("POST", f"/jobs/{lost.id}/redrive", {"generation": 3})
        assert code_of(answer) == (409, "changed", "generation")
        assert (await system.ask("POST", f"/jobs/{lost.id}/redrive"))[1]["generation"] == 5
        assert [one.id for one in system.sent] == [known.id, lost.id]
        assert [one["generation"] for one in system.notifier.submissions] == [3, 5]
        task = asyncio.create_task(system.poisoned.run())
        await wait_until(lambda: len(system.poison.visible) == 1)
        task.cancel()


async def test_a_message_that_cannot_be_read_is_not_redriven(tmp_path: Path) -> None:
    """It stays where it is."""
    unreadable = rewrite_message(encode_message(lost := message()), max_attempts=0)
    async with operated_jobs(tmp_path, unreadable) as system:
        assert code_of(await system.ask("POST", f"/jobs/{lost.id}/redrive")) == (409, "unreadable", None)
        assert code_of(await system.ask("POST", f"/jobs/{lost.id}/rerun")) == (409, "unreadable", None)
        kept = system.notifier.keep(message(), message=unreadable)
        for action in ("redrive", "rerun"):
            assert code_of(await system.ask("POST", f"/jobs/{kept}/{action}")) == (409, "unreadable", None)
        huge = system.notifier.keep(message(), message=rewrite_message(encode_message(message()), x="x" * 60_000))
        assert code_of(await system.ask("POST", f"/jobs/{huge}/redrive")) == (413, "too_large", None)
        assert system.jobs.sent == []
        assert len(system.poison.visible) == 1


async def test_a_redrive_deletes_the_outdated_poison_message(tmp_path: Path) -> None:
    """The message of a later failure stays, and so do those of other jobs."""
    failed, other = message(generation=1), message()
    later = replace(failed, generation=2)
    async with operated_jobs(tmp_path, failed, later, other) as system:
        system.notifier.keep(failed)
        assert (await system.ask("POST", f"/jobs/{failed.id}/redrive"))[1]["generation"] == 2
        task = asyncio.create_task(system.poisoned.run())
        await wait_until(lambda: len(system.poison.visible) == 2)
        task.cancel()
        assert {one.text for one in system.poison.messages.values()} == {encode_message(later), encode_message(other)}


async def test_an_unavailable_service_loses_nothing(tmp_path: Path) -> None:
    """Without the notifier or the queue nothing is sent; without the submission the job runs all the same."""
    async with operated_jobs(tmp_path) as system:
        job_id = system.notifier.keep(message())
        for system.notifier.status in (503, 404, 401):
            for action in ("redrive", "rerun"):
                assert code_of(await system.ask("POST", f"/jobs/{job_id}/{action}")) == (503, "unavailable", None)
        system.notifier.status, system.notifier.closes = 0, True
        assert code_of(await system.ask("POST", f"/jobs/{job_id}/redrive")) == (503, "unavailable", None)
        system.notifier.closes = False
        system.jobs.error = ServiceRequestError("unavailable")
        for action in ("redrive", "rerun"):
            assert code_of(await system.ask("POST", f"/jobs/{job_id}/{action}")) == (503, "unavailable", None)
        assert not system.jobs.sent
        assert not system.notifier.submissions
        system.jobs.error = None
        assert (await system.ask("POST", f"/jobs/{job_id}/redrive"))[0] == 202


async def test_a_rerun_is_a_new_job(tmp_path: Path) -> None:
    """It has the kind, the payload, the labels and the limits of the old one, and starts from the beginning."""
    async with operated_jobs(tmp_path) as system:
        for status in ("succeeded", "running"):
            system.notifier.keep(FULL, status)
            answered, receipt = await system.ask("POST", f"/jobs/{FULL.id}/rerun")
            assert (answered, receipt["status"], set(receipt)) == (202, "queued", {"id", "status", "token", "links"})
            sent = system.sent[-1]
            assert str(sent.id) == receipt["id"] != str(FULL.id)
            assert (sent.kind, bytes(sent.payload), sent.labels) == (FULL.kind, bytes(FULL.payload), LABELS)
            assert (sent.max_attempts, sent.timeout_s, sent.on_end) == (3, 60, "mail")
            assert (sent.generation, sent.checkpoint) == (0, NULL)


async def test_a_rerun_with_an_idempotency_key_is_one_job(tmp_path: Path) -> None:
    """The same request has the same id; another payload or another job has another one."""
    async with operated_jobs(tmp_path) as system:
        ids = []
        job_id, other = system.notifier.keep(message()), system.notifier.keep(message())
        for path, body in (
            (job_id, None),
            (job_id, {}),
            (job_id, {"payload": {"b": 1, "a": 2}}),
            (job_id, b'{"payload": {"a": 2, "b": 1}}'),
            (other, None),
        ):
            ids.append((await system.ask("POST", f"/jobs/{path}/rerun", body, {"Idempotency-Key": "k"}))[1]["id"])
        assert ids[0] == ids[1]
        assert ids[2] == ids[3]
        assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (encode("x" * 32_768), (413, "too_large", "payload")),
        (b"[" * TOO_DEEP + b"]" * TOO_DEEP, (422, "invalid", "payload")),
        (encode("x" * 65_536), (413, "too_large", None)),
    ],
    ids=["too large", "nested too deep", "body too large"],
)
async def test_an_altered_payload_is_checked(
    tmp_path: Path, payload: bytes, problem: tuple[int, str, str | None]
) -> None:
    """Nothing is sent."""
    async with operated_jobs(tmp_path) as system:
        job_id = system.notifier.keep(message())
        answer = await system.ask("POST", f"/jobs/{job_id}/rerun", b'{"payload":%b}' % payload)
        assert code_of(answer) == problem
        assert system.jobs.sent == []


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        ("redrive", {"generation": -1}, (422, "invalid", "generation")),
        ("redrive", {"generation": "1"}, (422, "invalid", "generation")),
        ("redrive", {"from": "start"}, (422, "invalid", "from")),
        ("redrive", b"{", (400, "malformed", None)),
        ("redrive", b"[]", (422, "invalid", None)),
        ("redrive", b" " * 2000, (413, "too_large", None)),
        ("rerun", {"kind": "other"}, (422, "invalid", "kind")),
        ("rerun", b'{"payload":}', (400, "malformed", None)),
    ],
)
async def test_an_invalid_body_is_refused(
    tmp_path: Path, path: str, body: object, problem: tuple[int, str, str | None]
) -> None:
    """The problem names the field."""
    async with operated_jobs(tmp_path) as system:
        job_id = system.notifier.keep(message())
        assert code_of(await system.ask("POST", f"/jobs/{job_id}/{path}", body)) == problem
        assert system.jobs.sent == []


async def test_a_body_needs_its_media_type(tmp_path: Path) -> None:
    """A form of another page must not run a job again."""
    async with operated_jobs(tmp_path) as system:
        job_id = system.notifier.keep(message())
        headers = {"Content-Type": "text/plain"}
        answer = await system.ask("POST", f"/jobs/{job_id}/redrive", b"{}", headers)
        assert code_of(answer) == (415, "unsupported_media_type", None)


async def test_the_payload_of_a_built_in_job_stays(tmp_path: Path) -> None:
    """A token for some jobs must not turn a bulk action into one on other jobs."""
    async with operated_jobs(tmp_path) as system:
        job_id = system.notifier.keep(replace(message(), kind="headway.bulk"))
        answer = await system.ask("POST", f"/jobs/{job_id}/rerun", {"payload": {}})
        assert code_of(answer) == (403, "forbidden", "payload")
        assert (await system.ask("POST", f"/jobs/{job_id}/rerun"))[0] == 202


async def test_a_token_runs_only_its_jobs_again(tmp_path: Path) -> None:
    """The labels decide: those of the record, or without a record those of the poison message."""
    lost = message(labels=Labels(owner="user:8"))
    async with operated_jobs(tmp_path, lost) as system:
        theirs = system.notifier.keep(message(labels=Labels(owner="user:8")))
        own = system.notifier.keep(message(labels=LABELS))
        system.headers = system.token(JobFilter(owner="user:7"))
        for job_id in (theirs, lost.id):
            for method, path in (("POST", "/redrive"), ("POST", "/rerun"), ("DELETE", "")):
                assert code_of(await system.ask(method, f"/jobs/{job_id}{path}")) == (403, "forbidden", None)
        assert system.jobs.sent == []
        assert len(system.poison.visible) == 1
        assert (await system.ask("POST", f"/jobs/{own}/rerun"))[0] == 202
        assert (await system.ask("POST", f"/jobs/{own}/redrive"))[0] == 202


async def test_callers_without_the_role_are_refused(tmp_path: Path) -> None:
    """Each action needs an operator."""
    async with operated_jobs(tmp_path) as system:
        job_id = system.notifier.keep(message())
        for key, problem in (("app", (403, "forbidden", None)), ("x", (401, "unauthorized", None))):
            system.headers = {"Authorization": f"Bearer {key}"}
            for method, path in (
                ("POST", f"/jobs/{job_id}/redrive"),
                ("POST", f"/jobs/{job_id}/rerun"),
                ("DELETE", f"/jobs/{job_id}"),
                ("GET", "/poison"),
                ("DELETE", f"/poison/{job_id}"),
            ):
                assert code_of(await system.ask(method, path)) == problem


async def test_workers_run_jobs_again_on_the_internal_listener(tmp_path: Path) -> None:
    """With the report key, the name of an operator, and for a rerun the id of the new job."""
    async with operated_jobs(tmp_path) as system:
        job_id, new_id = system.notifier.keep(message(labels=LABELS)), str(uuid4())
        with structlog.testing.capture_logs() as logs:
            for _ in range(2):
                body = {"id": new_id, "by": "alice"}
                answered, receipt = await system.ask("POST", f"/jobs/{job_id}/rerun", body, internal=True)
                assert (answered, receipt["id"]) == (202, new_id)
            redrive = {"generation": 0, "by": "alice"}
            assert (await system.ask("POST", f"/jobs/{job_id}/redrive", redrive, internal=True))[0] == 202
        assert {line["by"] for line in logs if line["event"] == "operator_action"} == {"alice"}
        answer = await system.ask("POST", f"/jobs/{job_id}/rerun", {"by": "alice"}, internal=True)
        assert code_of(answer) == (422, "invalid", "id")
        for action in ("redrive", "rerun"):
            headers = {"Authorization": "Bearer ops"}
            answer = await system.ask("POST", f"/jobs/{job_id}/{action}", {}, headers, internal=True)
            assert code_of(answer) == (401, "unauthorized", None)
