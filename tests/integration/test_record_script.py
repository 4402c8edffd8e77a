"""The gate, told by examples: what comes back byte for byte, what is healed, who is told, and what a cancel does."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from redis.asyncio import Redis
from redis.exceptions import RedisError

from headway.contracts import (
    MAX_RESULT_BYTES,
    JobError,
    JobReport,
    JobSnapshot,
    JobStatus,
    Json,
    Progress,
    Timestamp,
    Verdict,
    decode,
)
from headway.tokens import Grant
from services.notifier.records.keys import job_key
from services.notifier.records.scripts import SCRIPT
from services.notifier.records.store import JobStore
from services.notifier.redis_client.connection import Command
from services.notifier.redis_client.topology import RedisClient, StandaloneRedis
from services.notifier.redis_client.url import redis_from_url
from tests.waiting import free_ports

JOB = UUID("6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11")
KEY = job_key(JOB)
NOW = Timestamp.now()
REPORT = JobReport(
    job_id=JOB,
    kind="countdown",
    message_id="m",
    delivery=1,
    sequence=1,
    status="running",
    submitted_at=NOW,
    expires_at=NOW.after(86_400),
    lease_until=NOW.after(3_600),
    progress=Progress(40, 100, "%", "halfway, nearly"),
)
PASS = Grant(job_id=JOB, kind="countdown", submitted_at=NOW, expires_at=NOW.after(86_400))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_9999_MS = 253_402_300_799_999


@pytest.fixture
async def servers(redis: Redis, stores: dict[str, str]) -> AsyncIterator[RedisClient]:
    """Reach the emptied Valkey."""
    async with redis_from_url(stores["REDIS_URL"]) as servers:
        yield servers


@pytest.fixture
async def records(servers: RedisClient) -> JobStore:
    """Pass through the gate of the emptied Valkey."""
    return JobStore(servers)


async def read(records: JobStore) -> bytes:
    """Return the job's snapshot."""
    (found,) = await records.read([str(JOB)])
    assert found is not None
    return found


async def send(records: JobStore, **changes: Any) -> Verdict:
    """Pass one report through the gate."""
    (verdict,) = await records.apply_reports([replace(REPORT, **changes)])
    return verdict


def seen(snapshot: bytes) -> JobSnapshot:
    """Read a snapshot as a watcher does."""
    return decode(snapshot, JobSnapshot)


def milliseconds(time: Sequence[int]) -> int:
    """Read the answer of Valkey's TIME."""
    return time[0] * 1000 + time[1] // 1000


# What comes back


@pytest.mark.parametrize(
    "result",
    [
        pytest.param("[]", id="empty array"),
        pytest.param("{}", id="empty object"),
        pytest.param("40.0", id="float"),
        pytest.param("12345678901234567", id="17 digits"),
        pytest.param('{"a":[-98765432109876543,1E400,[],{}],"a":null}', id="what no reader agrees on"),
        pytest.param('"🚂 \\ud83d\\ude82 \\u0000 \\/"', id="emoji and escapes"),
        pytest.param('"%s%d\\\\n]]--"', id="formats and comments"),
        pytest.param('"' + "ü" * (MAX_RESULT_BYTES // 2 - 1) + '"', id="32 KiB"),
    ],
)
async def test_result_comes_back_byte_for_byte(records: JobStore, result: str) -> None:
    """A result is in the snapshot exactly as its author wrote it."""
    assert (await send(records, status="succeeded", result=Json(result.encode()))).accepted
    snapshot = await read(records)
    assert f'"result":{result},"error":null'.encode() in snapshot
    assert bytes(seen(snapshot).result) == result.encode()


@pytest.mark.parametrize("current", [0, 40, 40.0, 0.1, 12345678901234567])
async def test_progress_keeps_its_numbers(records: JobStore, current: float) -> None:
    """Progress comes back with its numbers as they were, an unknown total as null."""
    await send(records, progress=Progress(current, message='"quoted" 🚂'))
    text = f'"progress":{{"current":{current},"total":null,"percent":null,"unit":null,"message":"\\"quoted\\" 🚂"}}'
    assert text.encode() in await read(records)


async def test_error_comes_back(records: JobStore) -> None:
    """An error is shown with its type and message."""
    error = JobError("ValueError", 'the "cable" is loose\n🔌')
    await send(records, status="failed", error=error)
    assert seen(await read(records)).error == error


async def test_every_field_comes_back(records: JobStore) -> None:
    """A snapshot shows what was reported and when the gate saw it."""
    await send(records, generation=3, attempt=4, max_attempts=7, due_at=NOW.after(5))
    job = seen(await read(records))
    assert (job.id, job.kind, job.status) == (JOB, "countdown", "running")
    assert (job.generation, job.attempt, job.max_attempts) == (3, 4, 7)
    assert (job.submitted_at, job.due_at) == (NOW, NOW.after(5))
    assert (job.lease_until, job.expires_at) == (REPORT.lease_until, REPORT.expires_at)
    assert (job.started_at, job.finished_at) == (job.updated_at, None)
    assert job.version == job.updated_at


# Time


def around(text: str) -> list[int]:
    """Return the last millisecond before a moment, the moment, and the last of its day."""
    moment = Timestamp.parse(text)
    return [moment - 1, moment, moment + 86_399_999]


@given(moments=st.lists(st.integers(0, YEAR_9999_MS), min_size=20, max_size=40))
@example(moments=around("2024-02-29T00:00:00Z") + around("2024-03-01T00:00:00Z"))
@example(moments=around("2000-02-29T00:00:00Z") + around("2000-03-01T00:00:00Z"))
@example(moments=around("2100-02-28T00:00:00Z") + around("2100-03-01T00:00:00Z"))
@example(moments=around("2027-01-01T00:00:00Z") + around("2028-12-31T00:00:00Z"))
@example(moments=[0, 1, 999, 1000, YEAR_9999_MS])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_gate_spells_times_as_everyone_does(redis: Redis, moments: list[int]) -> None:
    """The gate's RFC 3339 is Python's, for leap days, year ends and any moment."""
    spelling = re.search(rb"local function rfc3339\(ms\).*?\nend\n", SCRIPT, re.DOTALL)
    assert spelling
    script = spelling[0].decode() + "for i = 1, #ARGV do ARGV[i] = rfc3339(tonumber(ARGV[i])) end return ARGV"
    for moment, text in zip(moments, await redis.eval(script, 0, *moments), strict=True):
        exact = EPOCH + timedelta(milliseconds=moment)
        assert text.decode() == f'"{exact:%Y-%m-%dT%H:%M:%S}.{moment % 1000:03}Z"'


async def test_times_are_valkeys(records: JobStore, redis: Redis) -> None:
    """The moments of start, change and end are Valkey's own."""
    before = milliseconds(await redis.time())
    await send(records)
    between = milliseconds(await redis.time())
    await send(records, sequence=2, status="succeeded")
    job = seen(await read(records))
    assert job.started_at
    assert job.finished_at
    assert before <= job.started_at <= between <= job.finished_at <= milliseconds(await redis.time())
    assert job.updated_at == job.finished_at


async def test_versions_rise_within_a_millisecond(records: JobStore) -> None:
    """A batch is applied in its order, each report a version of its own."""
    before = Timestamp.now()
    reports = [replace(REPORT, sequence=n, progress=Progress(n)) for n in range(1, 101)]
    verdicts = await records.apply_reports([*reports, REPORT])
    assert [verdict.accepted for verdict in verdicts] == [True] * 100 + [False]
    job = seen(await read(records))
    assert job.version >= before + 99
    assert job.progress
    assert job.progress.current == 100


async def test_version_rises_above_a_clock_that_fell_back(records: JobStore, redis: Redis) -> None:
    """After a failover to a machine whose clock is behind, versions still rise."""
    await send(records)
    ahead = NOW.after(3600)
    await redis.hset(KEY, "version", ahead)
    await send(records, sequence=2, progress=None)
    assert seen(await read(records)).version == ahead + 1


@pytest.mark.parametrize("lifetime_s", [-7200, 7200], ids=["expired", "living"])
async def test_record_outlives_its_job_by_an_hour(records: JobStore, redis: Redis, lifetime_s: int) -> None:
    """A key lives an hour past the job's expiry and its last report, even one that changes nothing."""
    expires_at = NOW.after(lifetime_s)
    await send(records, expires_at=expires_at)
    await redis.pexpire(KEY, 1000)
    before = milliseconds(await redis.time())
    await send(records, expires_at=expires_at, sequence=2)
    expiry = await redis.pexpiretime(KEY) - 3_600_000
    assert max(before, expires_at) <= expiry <= max(milliseconds(await redis.time()), expires_at)


# What stands in the way


async def put_text(redis: Redis) -> None:
    """Put a string where the record belongs."""
    await redis.set(KEY, "rubbish")


async def put_list(redis: Redis) -> None:
    """Put a list where the record belongs."""
    await redis.rpush(KEY, "rubbish")


async def put_other_hash(redis: Redis) -> None:
    """Put a hash that is no record of ours."""
    await redis.hset(KEY, mapping={"version": 1, "status": "running"})


async def spoil_version(redis: Redis) -> None:
    """Spoil a record's version."""
    await redis.hset(KEY, "version", "soon")


async def lose_field(redis: Redis) -> None:
    """Take a field from a record."""
    await redis.hdel(KEY, "sequence")


RUBBISH = pytest.mark.parametrize("spoil", [put_text, put_list, put_other_hash, spoil_version, lose_field])


@RUBBISH
@pytest.mark.parametrize("healed_by", ["report", "cancel"])
async def test_rubbish_is_absence(
    records: JobStore, redis: Redis, spoil: Callable[[Redis], Awaitable[None]], healed_by: str
) -> None:
    """What is no record reads as absent, and one report or cancel puts a record in its place."""
    if spoil in (spoil_version, lose_field):
        await send(records, status="succeeded")
    await spoil(redis)
    assert await records.read([str(JOB)]) == [None]
    if healed_by == "report":
        assert await send(records) == Verdict(JOB, accepted=True)
    else:
        await records.cancel(PASS)
    assert seen(await read(records)).status == ("running" if healed_by == "report" else "cancelled")
    assert await redis.pttl(KEY) > 0


async def test_one_report_rebuilds_a_lost_record(records: JobStore, redis: Redis) -> None:
    """After a loss the next report brings back the whole state, at a higher version."""
    await send(records)
    lost = seen(await read(records))
    await redis.delete(KEY)
    await send(records, sequence=40, progress=Progress(90, 100))
    job = seen(await read(records))
    assert job.progress
    assert (job.progress.percent, job.lease_until, job.submitted_at) == (90.0, lost.lease_until, NOW)


async def test_read_answers_in_order(records: JobStore) -> None:
    """Each job asked for has its place in the answer, None where there is no record."""
    await send(records)
    other = str(UUID(int=1))
    assert await records.read([other, str(JOB), other]) == [None, await read(records), None]
    assert await records.read([]) == []


async def test_emptied_script_cache_is_filled(records: JobStore, redis: Redis) -> None:
    """A Valkey that forgot the script is given it again, and nothing fails."""
    await send(records)
    await redis.script_flush()
    assert (await send(records, sequence=2)).accepted


class Interrupted(StandaloneRedis):
    """A server that forgets the script after the first call of a batch."""

    def __init__(self, servers: RedisClient) -> None:
        self._servers = servers
        self._flushed = False

    async def execute(self, commands: Sequence[tuple[str, Command]]) -> list[Any]:
        if self._flushed:
            return await self._servers.execute(commands)
        self._flushed = True
        first = await self._servers.execute(commands[:1])
        await self._servers.execute([(KEY, ("SCRIPT", "FLUSH"))])
        return first + await self._servers.execute(commands[1:])


async def test_only_what_did_not_run_is_run_again(records: JobStore, servers: RedisClient) -> None:
    """When the script is lost within a batch, a report that passed is not passed again, which would be refused."""
    await send(records)
    reports = [replace(REPORT, sequence=n, progress=Progress(n)) for n in (2, 3, 4)]
    assert await JobStore(Interrupted(servers)).apply_reports(reports) == [Verdict(JOB, accepted=True)] * 3


async def test_a_call_that_fails_is_raised(records: JobStore) -> None:
    """When one call of a batch fails, its outcome is in doubt, and the batch says so."""
    broken = [KEY, "report", "too", "few"]
    with pytest.raises(RedisError):
        await records._run("read", [[KEY, "read"], broken])


@pytest.mark.parametrize("ask", ["apply", "cancel", "read"])
async def test_valkey_away_is_an_error(ask: str) -> None:
    """Where nothing listens, whatever is asked raises RedisError."""
    calls: dict[str, Callable[[JobStore], Awaitable[Any]]] = {
        "apply": lambda records: records.apply_reports([REPORT]),
        "cancel": lambda records: records.cancel(PASS),
        "read": lambda records: records.read([str(JOB)]),
    }
    async with redis_from_url(f"redis://127.0.0.1:{free_ports(1)[0]}") as servers:
        with pytest.raises(RedisError):
            await calls[ask](JobStore(servers))


# Who is told


@pytest.fixture
async def heard(redis: Redis) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """Subscribe to the job; yield what returns the next published bytes."""
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(KEY)
        assert await pubsub.get_message(timeout=5)

        async def next_bytes() -> bytes:
            message = await pubsub.get_message(timeout=5)
            assert message, "nothing was published"
            return bytes(message["data"])

        yield next_bytes


async def test_published_is_what_is_read(records: JobStore, heard: Callable[[], Awaitable[bytes]]) -> None:
    """Each change is published once, as the very bytes that a read returns; what changes nothing is not."""
    await send(records)
    assert await heard() == await read(records)
    await send(records, sequence=2)
    await send(records, sequence=2, progress=None)
    assert await records.cancel(PASS) == await heard()
    await records.cancel(PASS)
    await send(records, sequence=4, status="cancelled")
    assert await heard() == await read(records)


@pytest.mark.usefixtures("heard")
async def test_watched_by_a_subscriber(records: JobStore) -> None:
    """A job with a subscriber is watched, also when a report changes nothing; a refusal does not say."""
    verdicts = [await send(records, sequence=n) for n in (1, 2, 2)]
    assert [(verdict.accepted, verdict.watched) for verdict in verdicts] == [(True, True), (True, True), (False, False)]


async def test_unwatched_without_a_subscriber(records: JobStore, redis: Redis) -> None:
    """A job is not watched by those who watch another."""
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(job_key(UUID(int=1)))
        assert await pubsub.get_message(timeout=5)
        assert [(await send(records, sequence=n)).watched for n in (1, 2)] == [False, False]


# Cancel


@pytest.mark.parametrize("due_at", [None, NOW.after(60)], ids=["at once", "delayed"])
async def test_cancel_before_any_report(records: JobStore, due_at: Timestamp | None) -> None:
    """A job that nobody has heard of is cancelled from its pass alone, and its start is refused."""
    job = seen(await records.cancel(replace(PASS, due_at=due_at)))
    assert (job.id, job.kind, job.status, job.cancel_requested) == (JOB, "countdown", "cancelled", True)
    assert (job.generation, job.attempt, job.progress, job.started_at, job.due_at) == (0, 1, None, None, None)
    assert (job.submitted_at, job.expires_at) == (PASS.submitted_at, PASS.expires_at)
    assert job.finished_at == job.updated_at == job.version
    assert await send(records) == Verdict(JOB, accepted=False, reason="finished", cancel_requested=True)


@pytest.mark.parametrize(
    ("status", "lease_until"),
    [
        pytest.param("queued", None, id="queued"),
        pytest.param("retrying", None, id="retrying"),
        pytest.param("retrying", NOW.after(3600), id="retrying, lease not yet over"),
        pytest.param("running", None, id="running without a lease"),
        pytest.param("running", NOW.after(-60), id="running, lease over"),
    ],
)
async def test_cancel_of_what_nobody_holds(records: JobStore, status: JobStatus, lease_until: Timestamp | None) -> None:
    """A job that no live lease holds is cancelled at once, with what it had reached."""
    await send(records, status=status, lease_until=lease_until, due_at=NOW.after(60))
    before = seen(await read(records))
    job = seen(await records.cancel(PASS))
    assert (job.status, job.cancel_requested, job.due_at, job.lease_until) == ("cancelled", True, None, None)
    assert (job.progress, job.started_at) == (before.progress, before.started_at)
    assert job.version > before.version
    assert (await send(records, sequence=2)).reason == "finished"


async def test_cancel_of_a_held_job_is_a_request(records: JobStore) -> None:
    """A job that a live lease holds runs on with a request, which every verdict passes on; asking twice is once."""
    await send(records)
    asked = await records.cancel(PASS)
    job = seen(asked)
    assert (job.status, job.cancel_requested, job.finished_at) == ("running", True, None)
    assert await records.cancel(PASS) == asked
    assert [(await send(records, sequence=n)).cancel_requested for n in (2, 2)] == [True, True]
    await send(records, sequence=3, status="cancelled")
    assert seen(await read(records)).status == "cancelled"


async def test_request_stays_through_attempts_and_goes_with_a_generation(records: JobStore) -> None:
    """A requested cancel holds for every further attempt, and not for a redriven job."""
    await send(records)
    await records.cancel(PASS)
    assert (await send(records, sequence=2, status="retrying", lease_until=None)).cancel_requested is True
    assert (await send(records, delivery=2, attempt=2)).cancel_requested is True
    assert (await send(records, delivery=1, generation=1)).cancel_requested is False
    assert seen(await read(records)).cancel_requested is False


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
async def test_cancel_of_an_ended_job_changes_nothing(records: JobStore, status: JobStatus) -> None:
    """An ending stands, to the byte."""
    await send(records, status=status)
    before = await read(records)
    assert await records.cancel(PASS) == before
    assert await read(records) == before
