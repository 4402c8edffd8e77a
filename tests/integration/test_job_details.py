"""The details of jobs in Redis: true errors, tracebacks, steps and queue messages, apart from the records."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from headway.contracts import (
    JobError,
    JobReport,
    JobSnapshot,
    Json,
    Progress,
    ReportDetails,
    StepTimes,
    SubmittedJob,
    Timestamp,
    decode,
)
from headway.details import LogAppend
from headway.grants import Grant
from headway.labels import Labels
from services.notifier.logs.store import LogStore
from services.notifier.records.details import JobDetails
from services.notifier.records.keys import details_key, job_key
from services.notifier.records.record_read import RecordRead
from services.notifier.records.store import JobStore
from services.notifier.redis_client.topology import RedisClient
from services.notifier.redis_client.url import redis_from_url
from services.notifier.transports.details import DetailsBody, details_body

JOB = UUID("6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11")
NOW = Timestamp.now()
HIDDEN = JobError("InternalError", "The job failed unexpectedly.")
MESSAGE = "eyJpZCI6IjEifQ=="
REPORT = JobReport(
    job_id=JOB,
    kind="letters",
    message_id="m",
    delivery=1,
    sequence=1,
    status="running",
    submitted_at=NOW,
    expires_at=NOW.after(86_400),
    lease_until=NOW.after(60),
    worker="w",
)


@pytest.fixture
async def client(redis: Redis, stores: dict[str, str]) -> AsyncIterator[RedisClient]:
    """Yield a client of the emptied Valkey."""
    async with redis_from_url(stores["REDIS_URL"]) as client:
        yield client


@pytest.fixture
def store(client: RedisClient) -> JobStore:
    """Return a job store over the emptied Valkey."""
    return JobStore(client)


async def send(store: JobStore, attempt: int, status: str, **changes: Any) -> None:
    """Apply a report of an attempt, which is a delivery of its own."""
    send.sequence += 1  # type: ignore[attr-defined]
    report = replace(REPORT, attempt=attempt, delivery=attempt, status=status, sequence=send.sequence, **changes)  # type: ignore[attr-defined]
    (verdict,) = await store.apply_reports([report])
    assert verdict.accepted, verdict


send.sequence = 1  # type: ignore[attr-defined]


async def fail(store: JobStore, attempt: int, text: str, status: str = "retrying", **changes: Any) -> None:
    """Start an attempt, and report its failure with an error that users do not see."""
    await send(store, attempt, "running", **changes)
    await fail_attempt(store, attempt, text, status, **changes)


async def fail_attempt(store: JobStore, attempt: int, text: str, status: str, **changes: Any) -> None:
    """Report the failure of an attempt."""
    details = ReportDetails(message=MESSAGE, error=JobError("KeyError", text), traceback=f"line of {text}")
    await send(store, attempt, status, error=HIDDEN, details=details, **changes)


async def read(store: JobStore) -> tuple[RecordRead, JobSnapshot, JobDetails]:
    """Return the record, its snapshot and the details."""
    ((record, details),) = await store.read_details([str(JOB)])
    assert record is not None
    return record, decode(record.snapshot, JobSnapshot), details


async def test_true_errors_are_kept_apart_from_the_snapshot(store: JobStore, redis: Redis) -> None:
    """Each attempt's error is kept, five beside the newest; the snapshot shows what users may see."""
    for attempt in range(1, 9):
        await fail(store, attempt, f"error {attempt}, 'quoted' \"{{}}\"")
    record, snapshot, details = await read(store)
    assert (record.error_type, snapshot.error) == ("KeyError", HIDDEN)
    assert b"quoted" not in record.snapshot
    assert b"KeyError" not in record.snapshot
    assert {one.error for one in snapshot.earlier_attempts} == {"InternalError"}
    assert details.error == JobError("KeyError", "error 8, 'quoted' \"{}\"")
    assert details.traceback == "line of " + details.error.message
    assert [(one.attempt, one.error.message[:7]) for one in details.earlier_errors] == [
        (attempt, f"error {attempt}") for attempt in range(3, 8)
    ]
    started = [one.started_at for one in snapshot.earlier_attempts]
    assert [one.started_at for one in details.earlier_errors] == started
    lifetimes = [await redis.pexpiretime(key(JOB)) for key in (job_key, details_key)]
    assert lifetimes[0] == lifetimes[1]


async def test_details_of_a_later_attempt_or_generation_replace_those_before(store: JobStore, redis: Redis) -> None:
    """The next attempt leaves error, traceback and steps behind; a new generation keeps the message and the errors."""
    steps = (StepTimes("read", NOW, NOW), StepTimes("write", NOW))
    await fail(store, 1, "first")
    await send(store, 2, "running")
    record, _, details = await read(store)
    assert (record.error_type, details.error) == (None, JobError("KeyError", "first"))
    await send(store, 2, "running", details=ReportDetails(steps=steps))
    await send(store, 2, "running", details=ReportDetails(steps=steps[:1]))
    details = (await read(store))[2]
    assert (details.error, details.traceback, details.steps) == (None, None, steps[:1])
    assert [one.error.message for one in details.earlier_errors] == ["first"]
    await fail(store, 2, "second", "failed")
    await fail(store, 1, "third", "failed", generation=1, message_id="n", expires_at=NOW.after(200_000))
    record, snapshot, details = await read(store)
    assert [(one.generation, one.error.message) for one in details.earlier_errors] == [(0, "first"), (0, "second")]
    assert (details.error, details.message) == (JobError("KeyError", "third"), MESSAGE)
    assert details.steps == ()
    again = SubmittedJob(id=JOB, kind="letters", submitted_at=NOW, expires_at=NOW.after(300_000), generation=2)
    await store.apply_submissions([again])
    record, snapshot, details = await read(store)
    assert (record.error_type, snapshot.status, details.message) == (None, "queued", MESSAGE)
    assert await redis.pexpiretime(details_key(JOB)) == await redis.pexpiretime(job_key(JOB))


HISTORIES = 300 if os.environ.get("LONG") == "1" else 40


async def test_each_earlier_attempt_has_its_own_error_after_random_histories(store: JobStore, redis: Redis) -> None:
    """Attempts fail, succeed, are lost or redriven; details name the error of each of the last five, and no other."""
    for seed in range(HISTORIES):
        await redis.flushall()
        chance, errors, generation = random.Random(seed), dict[int, str](), 0
        for attempt in range(1, 13):  # the number goes on in the next generation, so that it names one attempt
            delivery = {"generation": generation, "message_id": f"m{generation}"}
            await send(store, attempt, "running", **delivery)
            outcome = chance.choice(("retrying", "retrying", "lost", "failed", "succeeded"))
            if outcome in ("retrying", "failed"):
                errors[attempt] = f"error {attempt}"
                await fail_attempt(store, attempt, errors[attempt], outcome, **delivery)
            elif outcome == "succeeded":
                await send(store, attempt, outcome, **delivery)
            generation += outcome in ("failed", "succeeded")
            record, snapshot, details = await read(store)
            body = details_body(record, details)
            assert body is not None
            assert len(body.attempts) == len(snapshot.earlier_attempts) + 1
            found = [one.error and one.error.message for one in body.attempts]
            assert found == [errors.get(one.attempt) for one in body.attempts], seed
            assert (body.error and body.error.message) == (None if snapshot.error is None else found[-1])


async def test_a_repeated_report_changes_nothing(store: JobStore) -> None:
    """A worker repeats a report whose verdict was lost; the errors before are kept once."""
    await fail(store, 1, "first")
    await fail(store, 2, "second")
    before = (await read(store))[2]
    again = ReportDetails(message=MESSAGE, error=JobError("KeyError", "second"), traceback="line of second")
    for _ in range(3):
        await send(store, 2, "retrying", error=HIDDEN, details=again)
    assert (await read(store))[2] == before


async def test_rejected_report_leaves_the_details_unchanged(store: JobStore) -> None:
    """The fence holds for details, too."""
    await fail(store, 1, "first", "failed")
    before = (await read(store))[2]
    late = replace(REPORT, sequence=1000, details=ReportDetails(message="late", error=JobError("E", "late")))
    assert [verdict.reason for verdict in await store.apply_reports([late])] == ["finished"]
    assert (await read(store))[2] == before


@pytest.mark.parametrize("kept", [None, "always kept"])
async def test_success_removes_the_kept_message(store: JobStore, kept: str | None) -> None:
    """An attempt before has left it; with `keep="always"` the success brings its own."""
    await fail(store, 1, "first")
    await send(store, 2, "running")
    await send(store, 2, "succeeded", details=None if kept is None else ReportDetails(message=kept))
    assert (await read(store))[2].message == kept


async def test_full_redis_stores_only_the_short_parts(client: RedisClient) -> None:
    """The message and the traceback can be missed; the record comes first."""
    store = JobStore(client, is_full=lambda: True)
    await fail(store, 1, "first", "failed")
    record, _, details = await read(store)
    assert (record.error_type, details.error) == ("KeyError", JobError("KeyError", "first"))
    assert (details.message, details.traceback) == (None, None)


async def test_error_that_users_see_is_not_hidden(store: JobStore) -> None:
    """Its details have the traceback; labels, name and worker are as without details."""
    error = JobError("Fail", "The address is wrong.")
    labels = Labels(name="May", owner="ann")
    await send(store, 1, "failed", error=error, labels=labels, details=ReportDetails(error=error, traceback="line 1"))
    record, snapshot, details = await read(store)
    assert (record.error_type, snapshot.error, snapshot.name) == (None, error, "May")
    assert (record.labels, record.worker) == (labels, "w")
    assert (details.error, details.traceback) == (error, "line 1")
    await send(store, 1, "running", worker=None, generation=1, details=ReportDetails(steps=(StepTimes("a", NOW),)))
    assert (await read(store))[0].labels == labels


async def test_erasure_removes_what_an_ended_job_has_left(store: JobStore, redis: Redis) -> None:
    """Result, details, log and the messages of progress and error are removed; the record stays, in a new version."""
    assert await store.erase(JOB, None) is None
    progress = Progress(40, 100, 'the ","message": unit', 'Dear "Ann"')
    await send(store, 1, "running", progress=progress)
    assert await store.erase(JOB, None) is False
    details = ReportDetails(message=MESSAGE, steps=(StepTimes("a", NOW),), error=JobError("AnnsError", "Ann"))
    ending = {"result": Json(b'{"to":"Ann"}'), "error": JobError("Fail", 'Dear "Ann"')}
    await send(store, 1, "failed", progress=progress, details=details, **ending)
    before = (await read(store))[1]
    assert await store.erase(JOB, None) is True
    record, snapshot, details_left = await read(store)
    assert details_left == JobDetails()
    assert await redis.keys("headway:*") == [job_key(JOB).encode()]
    assert snapshot.version > before.version
    assert snapshot.progress is not None
    erased = replace(before, version=snapshot.version, updated_at=snapshot.updated_at, result=Json(b"null"))
    erased = replace(erased, error=JobError("Fail", "The message was erased."))
    assert snapshot == replace(erased, progress=replace(snapshot.progress, message=None))
    assert (snapshot.progress.current, snapshot.progress.unit) == (40, progress.unit)
    assert b"Ann" not in record.snapshot
    assert record.error_type is None
    assert await store.erase(JOB, None) is True
    assert (await read(store))[1] == snapshot


async def test_an_erased_log_takes_no_more_text_until_the_job_runs_again(store: JobStore, client: RedisClient) -> None:
    """A worker sends the rest after the end. Its offsets go on, so that no client misses what a redriven job logs."""
    logs = LogStore(client, lambda: False)

    async def append(text: str, start: int, **fields: Any) -> bool:
        named = {"message_id": "m", "delivery": 1, **fields}
        (verdict,) = await logs.append([LogAppend(job_id=JOB, start=start, text=text, **named)])
        return verdict.accepted

    await send(store, 1, "running")
    assert await append("Dear Ann\n", 0)
    await send(store, 1, "failed")
    assert await store.erase(JOB, None) is True
    assert not await append("Yours, Bob\n", 9)
    await send(store, 1, "running", generation=1, message_id="n")
    assert await append("again\n", 0, generation=1, message_id="n")
    (log,) = await logs.read([(str(JOB), 0)])
    assert log is not None
    assert (log.base, log.end, log.data) == (9, 15, b"again\n")


@pytest.mark.parametrize("damage", ["type", "fields"])
async def test_damaged_details_are_replaced(store: JobStore, redis: Redis, damage: str) -> None:
    """Another program may write anything there; reports and reads go on."""
    key = details_key(JOB)
    await fail(store, 1, "first")
    if damage == "type":
        await redis.delete(key)
        await redis.rpush(key, "x")
        await redis.pexpire(key, 60_000)
    else:
        await redis.hset(
            key, mapping=dict.fromkeys(("attempt", "error", "steps", "message", "earlier_errors"), b"\xff{")
        )
    details = (await read(store))[2]
    assert (details.error, details.steps, details.earlier_errors) == (None, (), ())
    await send(store, 2, "succeeded")
    await fail(store, 1, "again", "failed", generation=1)
    details = (await read(store))[2]
    assert (details.error, details.message, details.earlier_errors) == (JobError("KeyError", "again"), MESSAGE, ())


def operator(name: str | None = "alice", **changes: Any) -> Grant:
    """Return the grant of an operator for the job."""
    scope = frozenset({"watch", "cancel", "details", "operate"})
    return Grant(
        job_id=JOB, kind="letters", submitted_at=NOW, expires_at=NOW.after(60), scope=scope, by=name, **changes
    )


async def body(store: JobStore) -> DetailsBody:
    """Return the details that operators see."""
    ((record, details),) = await store.read_details([str(JOB)])
    assert record is not None
    found = details_body(record, details)
    assert found is not None
    return found


async def actions(store: JobStore) -> list[tuple[str, str, int]]:
    """Return what operators did with the job, the newest first."""
    return [(one.action, one.by, one.generation) for one in (await body(store)).actions]


async def test_details_say_who_acted(store: JobStore, redis: Redis) -> None:
    """Each action is there once, also if its request is repeated; one that changes nothing is not."""
    labels = Labels(tags=("a",))
    submitted = SubmittedJob(id=JOB, kind="letters", submitted_at=NOW, expires_at=NOW.after(86_400), labels=labels)
    await store.apply_submissions([replace(submitted, by="ann")])
    assert await actions(store) == [("rerun", "ann", 0)]
    before = Timestamp.now()
    for grant in (operator(), operator("bob"), operator(None)):
        assert await store.cancel(grant) is not None
    assert await actions(store) == [("cancel", "alice", 0), ("rerun", "ann", 0)]
    assert before <= (await body(store)).actions[0].at.after(1)
    for _ in range(2):  # the second is a repetition, and the third comes after the first delivery has started
        await store.apply_submissions([replace(submitted, generation=1, by="bob")])
    await send(store, 1, "running", generation=1, lease_until=Timestamp.now().after(600))
    await store.apply_submissions([replace(submitted, generation=1, by="bob")])
    watcher = replace(operator("mallory"), scope=frozenset({"watch", "cancel"}))
    await store.cancel(watcher)
    await store.cancel(operator())  # which is requested already
    await fail(store, 1, "No", "failed", generation=1)
    assert await store.erase(JOB, "carol") is True
    assert await actions(store) == [("erase", "carol", 1)]
    for generation in range(2, 14):
        await store.apply_submissions([replace(submitted, generation=generation, by="bob")])
    assert await actions(store) == [("redrive", "bob", generation) for generation in range(13, 3, -1)]
    for broken in (b"?\n" * 20, b'{"action":"cancel"}\n'):
        await redis.hset(details_key(str(JOB)), "actions", broken)
        await store.cancel(operator("dave", filter=None))
        await store.apply_submissions([replace(submitted, generation=generation + 1, by="eve")])
        generation += 1
        assert ("redrive", "eve", generation) in await actions(store)
    await redis.delete(details_key(str(JOB)))
    await redis.set(details_key(str(JOB)), "of another type")
    await store.apply_submissions([replace(submitted, generation=generation + 1, by="eve")])
    assert await actions(store) == [("redrive", "eve", generation + 1)]


async def test_an_action_arrives_after_the_start(store: JobStore) -> None:
    """A worker may start a job before the notifier learns of its submission."""
    await send(store, 1, "running", generation=1, lease_until=Timestamp.now().after(600))
    submitted = SubmittedJob(
        id=JOB, kind="letters", submitted_at=NOW, expires_at=NOW.after(86_400), generation=1, by="bob"
    )
    await store.apply_submissions([submitted])
    assert await actions(store) == [("redrive", "bob", 1)]
    assert await store.cancel(operator("eve")) is not None
    assert await actions(store) == [("cancel", "eve", 1), ("redrive", "bob", 1)]
