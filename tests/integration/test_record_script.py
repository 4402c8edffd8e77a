"""The record script by examples: values, times, invalid records, publication, cancellation, submissions, attempts."""

from __future__ import annotations

import itertools
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
    ENDED,
    MAX_RESULT_BYTES,
    JobError,
    JobReport,
    JobSnapshot,
    JobStatus,
    Json,
    Progress,
    SubmittedJob,
    Timestamp,
    Verdict,
    decode,
)
from headway.labels import JobFilter, Labels
from headway.tokens import Grant, ListGrant
from services.notifier.records import scripts
from services.notifier.records.keys import job_key
from services.notifier.records.script_calls import cancel_call
from services.notifier.records.scripts import SCRIPT
from services.notifier.records.store import JobChanged, JobStore
from services.notifier.redis_client.connection import Command
from services.notifier.redis_client.topology import RedisClient, StandaloneRedis
from services.notifier.redis_client.url import redis_from_url
from services.notifier.watching.snapshot import PublishedSnapshot
from tests.waiting import PATIENCE_S, free_ports

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
GRANT = Grant(job_id=JOB, kind="countdown", submitted_at=NOW, expires_at=NOW.after(86_400))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_1_MS, YEAR_9999_MS = -62_135_596_800_000, 253_402_300_799_999


@pytest.fixture
async def client(redis: Redis, stores: dict[str, str]) -> AsyncIterator[RedisClient]:
    """Yield a client of the emptied Valkey."""
    async with redis_from_url(stores["REDIS_URL"]) as client:
        yield client


@pytest.fixture
async def store(client: RedisClient) -> JobStore:
    """Return a job store over the emptied Valkey."""
    return JobStore(client)


async def read(store: JobStore) -> bytes:
    """Return the job's snapshot."""
    (record,) = await store.read([str(JOB)])
    assert record is not None
    return record.snapshot


async def send(store: JobStore, **changes: Any) -> Verdict:
    """Apply one report."""
    (verdict,) = await store.apply_reports([replace(REPORT, **changes)])
    return verdict


def parse(snapshot: bytes | None) -> JobSnapshot:
    """Decode a snapshot as a watcher does."""
    assert snapshot is not None
    return decode(snapshot, JobSnapshot)


def milliseconds(time: Sequence[int]) -> int:
    """Convert the reply of Redis's TIME."""
    return time[0] * 1000 + time[1] // 1000


# Values


@pytest.mark.parametrize(
    "result",
    [
        pytest.param("[]", id="empty array"),
        pytest.param("{}", id="empty object"),
        pytest.param("40.0", id="float"),
        pytest.param("12345678901234567", id="17 digits"),
        pytest.param('{"a":[-98765432109876543,1E400,[],{}],"a":null}', id="numbers and keys on which parsers differ"),
        pytest.param('"🚂 \\ud83d\\ude82 \\u0000 \\/"', id="emoji and escapes"),
        pytest.param('"%s%d\\\\n]]--"', id="formats and comments"),
        pytest.param('"' + "ü" * (MAX_RESULT_BYTES // 2 - 1) + '"', id="32 KiB"),
    ],
)
async def test_result_is_unchanged(store: JobStore, result: str) -> None:
    """The snapshot contains a result byte for byte."""
    assert (await send(store, status="succeeded", result=Json(result.encode()))).accepted
    snapshot = await read(store)
    assert f'"result":{result},"error":null'.encode() in snapshot
    assert bytes(parse(snapshot).result) == result.encode()


@pytest.mark.parametrize("current", [0, 40, 40.0, 0.1, 12345678901234567])
async def test_progress_keeps_its_numbers(store: JobStore, current: float) -> None:
    """The snapshot shows the numbers of the progress unchanged, and an unknown total as null."""
    await send(store, progress=Progress(current, message='"quoted" 🚂'))
    text = f'"progress":{{"current":{current},"total":null,"percent":null,"unit":null,"message":"\\"quoted\\" 🚂"}}'
    assert text.encode() in await read(store)


async def test_error_is_unchanged(store: JobStore) -> None:
    """The snapshot shows an error's type and message."""
    error = JobError("ValueError", 'the "cable" is loose\n🔌')
    await send(store, status="failed", error=error)
    assert parse(await read(store)).error == error


async def test_snapshot_has_every_field(store: JobStore) -> None:
    """A snapshot shows the reported fields and the times of the record script."""
    await send(store, generation=3, attempt=4, max_attempts=7, due_at=NOW.after(5))
    job = parse(await read(store))
    assert (job.id, job.kind, job.status) == (JOB, "countdown", "running")
    assert (job.generation, job.attempt, job.max_attempts) == (3, 4, 7)
    assert (job.submitted_at, job.due_at) == (NOW, NOW.after(5))
    assert (job.lease_until, job.expires_at) == (REPORT.lease_until, REPORT.expires_at)
    assert (job.started_at, job.finished_at) == (job.updated_at, None)
    assert job.version == job.updated_at


# Time


def around(text: str) -> list[int]:
    """Return the millisecond before a time, the time, and the last millisecond of the 24 hours after it."""
    moment = Timestamp.parse(text)
    return [moment - 1, moment, moment + 86_399_999]


@given(moments=st.lists(st.integers(YEAR_1_MS, YEAR_9999_MS), min_size=20, max_size=40))
@example(moments=around("2024-02-29T00:00:00Z") + around("2024-03-01T00:00:00Z"))
@example(moments=around("2000-02-29T00:00:00Z") + around("2000-03-01T00:00:00Z"))
@example(moments=around("2100-02-28T00:00:00Z") + around("2100-03-01T00:00:00Z"))
@example(moments=around("2027-01-01T00:00:00Z") + around("2028-12-31T00:00:00Z"))
@example(moments=[YEAR_1_MS, -1, 0, 1, 999, 1000, YEAR_9999_MS])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_times_are_formatted_as_rfc3339(redis: Redis, moments: list[int]) -> None:
    """The script formats leap days, year ends and any other time as Python does."""
    function = re.search(rb"local function rfc3339\(ms\).*?\nend\n", SCRIPT, re.DOTALL)
    assert function
    script = function[0].decode() + "for i = 1, #ARGV do ARGV[i] = rfc3339(tonumber(ARGV[i])) end return ARGV"
    for moment, text in zip(moments, await redis.eval(script, 0, *moments), strict=True):
        exact = EPOCH + timedelta(milliseconds=moment)
        assert text.decode() == f'"{exact.year:04}-{exact:%m-%dT%H:%M:%S}.{moment % 1000:03}Z"'


async def test_times_are_from_the_redis_clock(store: JobStore, redis: Redis) -> None:
    """`started_at`, `updated_at` and `finished_at` are times of the Redis clock."""
    before = milliseconds(await redis.time())
    await send(store)
    between = milliseconds(await redis.time())
    await send(store, sequence=2, status="succeeded")
    job = parse(await read(store))
    assert job.started_at
    assert job.finished_at
    assert before <= job.started_at <= between <= job.finished_at <= milliseconds(await redis.time())
    assert job.updated_at == job.finished_at


async def test_versions_rise_within_a_millisecond(store: JobStore) -> None:
    """Reports are applied in their order, and each gets its own version."""
    before = Timestamp.now()
    reports = [replace(REPORT, sequence=n, progress=Progress(n)) for n in range(1, 101)]
    verdicts = await store.apply_reports([*reports, REPORT])
    assert [verdict.accepted for verdict in verdicts] == [True] * 100 + [False]
    job = parse(await read(store))
    assert job.version >= before + 99
    assert job.progress
    assert job.progress.current == 100


async def test_version_rises_after_the_clock_goes_back(store: JobStore, redis: Redis) -> None:
    """Versions still rise after a failover to a machine whose clock is behind."""
    await send(store)
    ahead = NOW.after(3600)
    await redis.hset(KEY, "version", ahead)
    await send(store, sequence=2, progress=None)
    assert parse(await read(store)).version == ahead + 1


# Times of workers

SECOND_MS, MINUTE_MS, DAY_MS = 1_000, 60_000, 86_400_000
clocks = pytest.mark.parametrize("error_ms", [-8 * DAY_MS, -2 * MINUTE_MS, 0, 2 * MINUTE_MS, 8 * DAY_MS])


def times(lease_ms: int | None, due_ms: int | None = None, error_ms: int = 0) -> dict[str, Timestamp | None]:
    """Return the times of a report by a wrong clock, with the lease and due time in some ms."""
    sent_at = Timestamp(Timestamp.now() + error_ms)
    lease_until, due_at = (None if ms is None else Timestamp(sent_at + ms) for ms in (lease_ms, due_ms))
    return {"sent_at": sent_at, "lease_until": lease_until, "due_at": due_at}


@clocks
async def test_clock_of_a_worker_does_not_matter(store: JobStore, error_ms: int) -> None:
    """Lease and due time count from the report, by the clock of Redis; so a live lease protects from a cancellation."""
    await send(store, **times(MINUTE_MS, 30 * SECOND_MS, error_ms))
    job = parse(await read(store))
    assert job.updated_at
    assert (job.lease_until, job.due_at) == (job.updated_at + MINUTE_MS, job.updated_at + 30 * SECOND_MS)
    cancelled = parse(await store.cancel(GRANT))
    assert (cancelled.status, cancelled.cancel_requested) == ("running", True)


@clocks
async def test_expired_lease_is_expired_by_any_clock(store: JobStore, error_ms: int) -> None:
    """A lease that ended a second before the report protects from nothing."""
    await send(store, **times(-SECOND_MS, None, error_ms))
    assert parse(await store.cancel(GRANT)).status == "cancelled"


@clocks
async def test_quiet_time_does_not_depend_on_the_clock_of_a_worker(
    store: JobStore, redis: Redis, error_ms: int
) -> None:
    """Another message is a duplicate until ten minutes after the lease, and accepted afterwards."""
    await send(store, **times(5 * MINUTE_MS, None, error_ms))
    for age_ms, reason in ((14 * MINUTE_MS, "duplicate"), (2 * MINUTE_MS, None)):
        for field in ("version", "lease_ms"):
            await redis.hincrby(KEY, field, -age_ms)
        assert (await send(store, message_id="another", **times(MINUTE_MS))).reason == reason


async def send_at_once(store: JobStore, *reported: dict[str, Timestamp | None]) -> int:
    """Send reports with these times in one pipeline; return how long the lease, or the wait, was at the last change."""
    reports = [replace(REPORT, sequence=sequence, **fields) for sequence, fields in enumerate(reported, 1)]
    assert [verdict.accepted for verdict in await store.apply_reports(reports)] == [True] * len(reports)
    job = parse(await read(store))
    end = job.lease_until or job.due_at
    assert end
    assert job.updated_at
    return end - job.updated_at


async def test_clock_that_jumps_changes_nothing(store: JobStore) -> None:
    """Heartbeats change nothing, although the worker's clock shows another time in each."""
    errors_ms = (0, -8 * DAY_MS, -2 * MINUTE_MS, 2 * MINUTE_MS, 8 * DAY_MS)
    assert await send_at_once(store, *(times(MINUTE_MS, None, error_ms) for error_ms in errors_ms)) == MINUTE_MS
    assert parse(await read(store)).started_at == parse(await read(store)).updated_at


@pytest.mark.parametrize("is_lease", [True, False], ids=["lease", "due time"])
@pytest.mark.parametrize(
    ("before_ms", "after_ms", "kept"),
    [
        (60_000, 61_500, True),
        (60_000, 58_500, True),
        (60_000, 62_500, False),
        (60_000, 57_500, False),
        (1_000, 2_000, False),  # the renewal of a lease of two seconds
        (-60_000, 60_000, False),
    ],
)
async def test_close_time_keeps_the_stored_one(
    store: JobStore, before_ms: int, after_ms: int, *, is_lease: bool, kept: bool
) -> None:
    """A time that differs by at most two seconds, or a quarter of a short one, is the stored one."""
    pairs = [(ms, None) if is_lease else (None, ms) for ms in (before_ms, after_ms)]
    shown_ms = await send_at_once(store, *(times(*pair) for pair in pairs))
    assert shown_ms == (before_ms if kept else after_ms)


async def test_small_changes_add_up(store: JobStore) -> None:
    """The stored lease is never more than two seconds from the reported one."""
    assert await send_at_once(store, *(times(ms) for ms in range(60_000, 75_000, 1_500))) == 72_000


async def test_times_of_a_report_without_its_own_time_are_kept(store: JobStore) -> None:
    """Without `sent_at`, the times are taken as they are, and a null stays null."""
    await send(store, sent_at=None, lease_until=NOW.after(77), due_at=None)
    job = parse(await read(store))
    assert (job.lease_until, job.due_at) == (NOW.after(77), None)
    await send(store, sequence=2, **times(None))
    assert parse(await read(store)).lease_until is None


async def test_extreme_times_stay_times(store: JobStore, redis: Redis) -> None:
    """Whatever a worker sends, the record contains a valid time and exact integers."""
    first, last = Timestamp.parse("0001-01-01T00:00:00Z"), Timestamp.parse("9999-12-31T23:59:59.999Z")
    for sequence, (sent_at, lease_until) in enumerate(((first, last), (last, first), (None, last), (None, first)), 1):
        await send(store, sequence=sequence, sent_at=sent_at, lease_until=lease_until)
        assert str(parse(await read(store)).lease_until) == str(Timestamp(await redis.hget(KEY, "lease_ms") or 0))


@pytest.mark.parametrize("lifetime_s", [-7200, 7200], ids=["expired", "living"])
async def test_record_outlives_its_job_by_an_hour(store: JobStore, redis: Redis, lifetime_s: int) -> None:
    """A key expires an hour after the later of the job's expiry and its last report, even if that changed nothing."""
    expires_at = NOW.after(lifetime_s)
    await send(store, expires_at=expires_at)
    if lifetime_s < 0:
        await redis.pexpire(KEY, 1000)
    before = milliseconds(await redis.time())
    await send(store, expires_at=expires_at, sequence=2)
    expiry = await redis.pexpiretime(KEY) - 3_600_000
    assert max(before, expires_at) <= expiry <= max(milliseconds(await redis.time()), expires_at)


# Invalid records


async def put_text(redis: Redis) -> None:
    """Write a string in place of the record."""
    await redis.set(KEY, "garbage")


async def put_list(redis: Redis) -> None:
    """Write a list in place of the record."""
    await redis.rpush(KEY, "garbage")


async def put_other_hash(redis: Redis) -> None:
    """Write a hash without a record's fields in place of the record."""
    await redis.hset(KEY, mapping={"version": 1, "status": "running"})


async def corrupt_version(redis: Redis) -> None:
    """Replace a record's version with text."""
    await redis.hset(KEY, "version", "soon")


async def remove_field(redis: Redis) -> None:
    """Remove a field of a record's snapshot."""
    await redis.hdel(KEY, "progress")


@pytest.mark.parametrize("corrupt", [put_text, put_list, put_other_hash, corrupt_version, remove_field])
@pytest.mark.parametrize("repaired_by", ["report", "cancel"])
async def test_invalid_record_counts_as_missing(
    store: JobStore, redis: Redis, corrupt: Callable[[Redis], Awaitable[None]], repaired_by: str
) -> None:
    """An invalid record is read as missing, and one report or cancellation replaces it with a valid one."""
    if corrupt in (corrupt_version, remove_field):
        await send(store, status="succeeded")
    await corrupt(redis)
    assert [PublishedSnapshot.from_record(str(JOB), record) for record in await store.read([str(JOB)])] == [None]
    if repaired_by == "report":
        assert await send(store) == Verdict(JOB, accepted=True)
    else:
        await store.cancel(GRANT)
    assert parse(await read(store)).status == ("running" if repaired_by == "report" else "cancelled")
    assert await redis.pttl(KEY) > 0


async def test_snapshot_survives_a_damaged_fence(store: JobStore, redis: Redis) -> None:
    """A record without a field of the fence is shown until the next report replaces it."""
    await send(store)
    shown = await read(store)
    await redis.hdel(KEY, "sequence")
    assert await read(store) == shown
    assert await send(store, progress=None) == Verdict(JOB, accepted=True)
    assert parse(await read(store)).progress is None


async def test_record_of_an_older_version_is_valid(
    store: JobStore, client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script of a later version, with one more field, still knows a job that ended before the upgrade."""
    await send(store, status="succeeded")
    ended = await read(store)
    last = b"'labels', 'worker'}"
    assert SCRIPT.count(last) == 1
    monkeypatch.setattr(scripts, "SCRIPT", SCRIPT.replace(last, last.replace(b"}", b", 'later'}")))
    later = JobStore(client)
    assert (await send(later, delivery=2)).reason == "finished"
    assert await later.cancel(GRANT) == ended


async def test_one_report_rebuilds_a_lost_record(store: JobStore, redis: Redis) -> None:
    """After the loss of a record the next report restores the whole state."""
    await send(store)
    lost = parse(await read(store))
    await redis.delete(KEY)
    await send(store, sequence=40, progress=Progress(90, 100))
    job = parse(await read(store))
    assert job.progress
    assert (job.progress.percent, job.lease_until, job.submitted_at) == (90.0, lost.lease_until, NOW)


async def test_read_keeps_the_order(store: JobStore) -> None:
    """Snapshots are returned in the order of the requested jobs, with None for each job without a record."""
    await send(store)
    other = str(UUID(int=1))
    records = await store.read([other, str(JOB), other])
    assert [record and record.snapshot for record in records] == [None, await read(store), None]
    assert await store.read([]) == []


async def test_script_is_reloaded_after_a_flush(store: JobStore, redis: Redis) -> None:
    """When Redis has lost the script, it is sent again, without an error."""
    await send(store)
    await redis.script_flush()
    assert (await send(store, sequence=2)).accepted


class FlushingRedis(StandaloneRedis):
    """A client whose server loses the script after the first command of a pipeline."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._flushed = False

    async def execute(self, commands: Sequence[tuple[str, Command]]) -> list[Any]:
        if self._flushed:
            return await self._client.execute(commands)
        self._flushed = True
        first = await self._client.execute(commands[:1])
        await self._client.execute([(KEY, ("SCRIPT", "FLUSH"))])
        return first + await self._client.execute(commands[1:])


async def test_only_failed_calls_are_repeated(store: JobStore, client: RedisClient) -> None:
    """When the script is lost within a pipeline, applied reports are not sent again; they would be rejected."""
    await send(store)
    reports = [replace(REPORT, sequence=n, progress=Progress(n)) for n in (2, 3, 4)]
    assert await JobStore(FlushingRedis(client)).apply_reports(reports) == [Verdict(JOB, accepted=True)] * 3


async def test_failed_call_raises(store: JobStore) -> None:
    """When one call of a pipeline fails, its effect is unknown, and the whole pipeline raises."""
    with pytest.raises(RedisError):
        await store._script.run([cancel_call(GRANT), [KEY, "report", "too", "few"]])


async def test_failed_read_raises(redis: Redis, stores: dict[str, str]) -> None:
    """A read that fails is not a missing record: the whole group raises."""
    await redis.acl_setuser("blind", enabled=True, nopass=True, keys=["*"], commands=["-hmget"])
    try:
        async with redis_from_url(stores["REDIS_URL"].replace("://", "://blind:x@")) as client:
            with pytest.raises(RedisError, match="NOPERM"):
                await JobStore(client).read([str(JOB)])
    finally:
        await redis.acl_deluser("blind")


@pytest.mark.parametrize("operation", ["apply", "cancel", "read"])
async def test_unreachable_redis_raises(operation: str) -> None:
    """Every operation raises RedisError when nothing listens at the address."""
    calls: dict[str, Callable[[JobStore], Awaitable[Any]]] = {
        "apply": lambda store: store.apply_reports([REPORT]),
        "cancel": lambda store: store.cancel(GRANT),
        "read": lambda store: store.read([str(JOB)]),
    }
    async with redis_from_url(f"redis://127.0.0.1:{free_ports(1)[0]}") as client:
        with pytest.raises(RedisError):
            await calls[operation](JobStore(client))


# Publication


@pytest.fixture
async def next_publication(redis: Redis) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """Subscribe to the job; yield a function that returns the next publication."""
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(KEY)
        assert await pubsub.get_message(timeout=PATIENCE_S)

        async def next_bytes() -> bytes:
            message = await pubsub.get_message(timeout=PATIENCE_S)
            assert message, "nothing was published"
            return bytes(message["data"])

        yield next_bytes


async def test_every_change_is_published_once(
    store: JobStore, next_publication: Callable[[], Awaitable[bytes]]
) -> None:
    """A publication has the same bytes as a read; a report or cancellation without a change publishes nothing."""
    await send(store)
    assert await next_publication() == await read(store)
    await send(store, sequence=2)
    await send(store, sequence=2, progress=None)
    assert await store.cancel(GRANT) == await next_publication()
    await store.cancel(GRANT)
    await send(store, sequence=4, status="cancelled")
    assert await next_publication() == await read(store)


@pytest.mark.usefixtures("next_publication")
async def test_verdict_shows_that_the_job_is_watched(store: JobStore) -> None:
    """The verdict of an accepted report is `watched` if the channel has a subscriber, even without a change."""
    verdicts = [await send(store, sequence=n) for n in (1, 2, 2)]
    assert [(verdict.accepted, verdict.watched) for verdict in verdicts] == [(True, True), (True, True), (False, False)]


async def test_job_without_a_subscriber_is_not_watched(store: JobStore, redis: Redis) -> None:
    """A subscriber of another job does not count."""
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(job_key(UUID(int=1)))
        assert await pubsub.get_message(timeout=PATIENCE_S)
        assert [(await send(store, sequence=n)).watched for n in (1, 2)] == [False, False]


# The fence


@pytest.mark.parametrize("delivery", [1, 7])
@pytest.mark.parametrize("status", ["running", "retrying", "succeeded"])
async def test_older_generation_is_finished(store: JobStore, status: JobStatus, delivery: int) -> None:
    """The message of a job that was redriven is of no more use: its worker deletes it."""
    await send(store, generation=1, delivery=3, status=status)
    before = await read(store)
    for message_id in ("m", "another"):
        verdict = await send(store, generation=0, delivery=delivery, sequence=9, message_id=message_id)
        assert verdict == Verdict(JOB, accepted=False, reason="finished")
    assert await read(store) == before


# Cancel


@pytest.mark.parametrize("due_at", [None, NOW.after(60)], ids=["at once", "delayed"])
async def test_cancel_before_any_report(store: JobStore, due_at: Timestamp | None) -> None:
    """A job without a record is cancelled from its grant alone, and its start is rejected."""
    job = parse(await store.cancel(replace(GRANT, due_at=due_at)))
    assert (job.id, job.kind, job.status, job.cancel_requested) == (JOB, "countdown", "cancelled", True)
    assert (job.generation, job.attempt, job.progress, job.started_at, job.due_at) == (0, 1, None, None, None)
    assert (job.submitted_at, job.expires_at) == (GRANT.submitted_at, GRANT.expires_at)
    assert job.finished_at == job.updated_at == job.version
    assert await send(store) == Verdict(JOB, accepted=False, reason="finished", cancel_requested=True)


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("k", Labels(owner="bert")),
        ("k", Labels(owner="anna", tags=("t",))),
        ("k", None),
        ("other", Labels(owner="anna")),
    ],
)
async def test_cancel_by_a_filter_needs_the_labels_that_it_has_matched(
    store: JobStore, redis: Redis, kind: str, labels: Labels | None
) -> None:
    """A record that was lost and rebuilt between the check and the cancellation may be of another owner's job."""
    grant = ListGrant(filter=JobFilter(owner="anna"), issued_at=NOW, expires_at=NOW.after(60)).for_job(JOB)
    await send(store, kind="k", labels=Labels(owner="anna"))
    (record,) = await store.read([str(JOB)])
    await redis.delete(KEY)
    assert await store.cancel(grant, record) is None
    await send(store, sequence=2, kind=kind, labels=labels)
    before = await read(store)
    assert await store.cancel(grant, record) is None
    assert await read(store) == before
    await redis.delete(KEY)
    await send(store, sequence=3, kind="k", labels=Labels(owner="anna"))
    assert parse(await store.cancel(grant, record)).cancel_requested


@pytest.mark.parametrize("labels", [Labels(name="A name"), None])
async def test_cancel_by_a_filter_without_labels(store: JobStore, labels: Labels | None) -> None:
    """A filter for a kind matches a job without an owner, and one without labels."""
    grant = ListGrant(filter=JobFilter(kind="k"), issued_at=NOW, expires_at=NOW.after(60)).for_job(JOB)
    await send(store, kind="k", labels=labels)
    (record,) = await store.read([str(JOB)])
    assert parse(await store.cancel(grant, record)).cancel_requested


@pytest.mark.parametrize(
    ("status", "lease_until"),
    [
        pytest.param("queued", None, id="queued"),
        pytest.param("retrying", None, id="retrying"),
        pytest.param("retrying", NOW.after(3600), id="retrying with a live lease"),
        pytest.param("running", None, id="running without a lease"),
        pytest.param("running", NOW.after(-60), id="running with an expired lease"),
    ],
)
async def test_cancel_of_a_job_that_does_not_run(
    store: JobStore, status: JobStatus, lease_until: Timestamp | None
) -> None:
    """A job without a live lease of a running attempt is cancelled at once and keeps its progress."""
    await send(store, status=status, lease_until=lease_until, due_at=NOW.after(60))
    before = parse(await read(store))
    job = parse(await store.cancel(GRANT))
    assert (job.status, job.cancel_requested, job.due_at, job.lease_until) == ("cancelled", True, None, None)
    assert (job.progress, job.started_at) == (before.progress, before.started_at)
    assert job.version > before.version
    assert (await send(store, sequence=2)).reason == "finished"


async def test_cancel_of_a_running_job_is_a_request(store: JobStore) -> None:
    """A job with a live lease keeps running, and every verdict shows the request; a second request changes nothing."""
    await send(store)
    snapshot = await store.cancel(GRANT)
    job = parse(snapshot)
    assert (job.status, job.cancel_requested, job.finished_at) == ("running", True, None)
    assert await store.cancel(GRANT) == snapshot
    assert [(await send(store, sequence=n)).cancel_requested for n in (2, 2)] == [True, True]
    await send(store, sequence=3, status="cancelled")
    assert parse(await read(store)).status == "cancelled"


async def test_cancel_request_lasts_until_a_redrive(store: JobStore) -> None:
    """A cancel request applies to all further attempts, but not to a redriven job."""
    await send(store)
    await store.cancel(GRANT)
    assert (await send(store, sequence=2, status="retrying", lease_until=None)).cancel_requested is True
    assert (await send(store, delivery=2, attempt=2)).cancel_requested is True
    assert (await send(store, delivery=1, generation=1)).cancel_requested is False
    assert parse(await read(store)).cancel_requested is False


@pytest.mark.parametrize("redriven_by", ["submission", "report"])
async def test_cancel_by_a_bulk_action_leaves_other_jobs_alone(store: JobStore, redis: Redis, redriven_by: str) -> None:
    """Jobs without a record, and those that have ended, have another generation or were redriven after the request."""
    assert await store.cancel_unchanged(JOB, 0, None, "ann") is None
    await send(store, status="failed", lease_until=None)
    before = await read(store)
    with pytest.raises(JobChanged, match="ended"):
        await store.cancel_unchanged(JOB, 0, None, "ann")
    requested_at = Timestamp(milliseconds(await redis.time()) - 1)
    if redriven_by == "report":
        await send(store, generation=1, lease_until=None)
    else:
        await store.apply_submissions([replace(JOB_SUBMITTED, generation=1)])
    for generation, until in ((0, None), (1, requested_at)):
        with pytest.raises(JobChanged, match="changed"):
            await store.cancel_unchanged(JOB, generation, until, "ann")
    assert parse(await read(store)).generation == parse(before).generation + 1
    cancelled = parse(await store.cancel_unchanged(JOB, 1, Timestamp(milliseconds(await redis.time()) + 1), "ann"))
    assert (cancelled.status, cancelled.generation) == ("cancelled", 1)


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
async def test_cancel_of_an_ended_job_changes_nothing(store: JobStore, status: JobStatus) -> None:
    """The snapshot of an ended job stays byte for byte the same."""
    await send(store, status=status)
    before = await read(store)
    assert await store.cancel(GRANT) == before
    assert await read(store) == before


# Submissions


JOB_SUBMITTED = SubmittedJob(id=JOB, kind="letters", submitted_at=NOW, expires_at=NOW.after(86_400), max_attempts=3)
LABELS = Labels(name="Letters of May", owner="ann", tags=("a", "b"))
DELIVERY_FIELDS = ("message_id", "delivery", "sequence")


async def test_submitted_job_waits_for_any_start(store: JobStore, redis: Redis) -> None:
    """The record has no fields of a delivery, so that version 0.1 sees none; the next report is its start."""
    due_at = NOW.after(3_600)
    await store.apply_submissions([replace(JOB_SUBMITTED, labels=LABELS, due_at=due_at)])
    job = parse(await read(store))
    assert (job.kind, job.status, job.attempt, job.max_attempts) == ("letters", "queued", 1, 3)
    assert (job.submitted_at, job.due_at, job.expires_at) == (NOW, due_at, NOW.after(86_400))
    assert (job.name, job.started_at, job.updated_at) == ("Letters of May", None, job.version)
    assert await redis.hmget(KEY, DELIVERY_FIELDS) == [None] * 3
    assert await redis.pttl(KEY) > 86_400_000
    assert await send(store, delivery=7, message_id="any") == Verdict(JOB, accepted=True)
    assert await redis.hmget(KEY, DELIVERY_FIELDS) == [b"any", b"7", b"1"]
    assert parse(await read(store)).name == "Letters of May"


async def test_submission_changes_no_record(store: JobStore) -> None:
    """A late or repeated submission changes nothing, whatever the job does."""
    submissions = [JOB_SUBMITTED, replace(JOB_SUBMITTED, labels=Labels(owner="bob"), kind="other")]
    for status in ("running", "retrying", "succeeded"):
        await send(store, sequence=len(status), status=status, labels=LABELS)
        before = await read(store)
        await store.apply_submissions(submissions)
        assert await read(store) == before


@pytest.mark.parametrize("status", ["running", "retrying", "succeeded"])
async def test_late_submission_fills_in_labels(store: JobStore, status: JobStatus) -> None:
    """The report of a worker of version 0.1, which has no labels, may arrive before the submission."""
    await send(store, status=status)
    before = parse(await read(store))
    await store.apply_submissions([replace(JOB_SUBMITTED, labels=LABELS, kind="other")])
    (record,) = await store.read([str(JOB)])
    assert record
    assert record.labels == LABELS
    after = parse(record.snapshot)
    assert (after.status, after.kind, after.name) == (status, before.kind, LABELS.name)
    assert after.version > before.version


async def test_due_time_that_has_passed_is_left_out(store: JobStore) -> None:
    """A late submission does not announce a start in the past."""
    await store.apply_submissions([replace(JOB_SUBMITTED, due_at=NOW)])
    assert parse(await read(store)).due_at is None


async def test_submission_of_a_redrive_waits_again(store: JobStore, redis: Redis) -> None:
    """A greater generation makes an ended job queued; it keeps its labels, its submission and its last attempt."""
    await send(store, labels=LABELS, worker="w", attempt=2, status="failed", error=JobError("Fail", "no"))
    failed = parse(await read(store))
    redrive = replace(
        JOB_SUBMITTED, generation=1, submitted_at=NOW.after(9), labels=Labels(owner="bob"), expires_at=NOW.after(90_000)
    )
    await store.apply_submissions([redrive])
    job = parse(await read(store))
    assert (job.status, job.generation, job.attempt, job.error) == ("queued", 1, 1, None)
    assert (job.name, job.submitted_at, job.expires_at) == ("Letters of May", NOW, NOW.after(90_000))
    assert [(one.attempt, one.outcome, one.error) for one in job.earlier_attempts] == [(2, "failed", "Fail")]
    assert job.earlier_attempts[0].ended_at == failed.finished_at
    assert (failed.redriven_at, job.redriven_at) == (None, job.updated_at)
    assert await redis.hmget(KEY, DELIVERY_FIELDS) == [None] * 3
    (record,) = await store.read([str(JOB)])
    assert record
    assert (record.labels, record.worker) == (LABELS, None)
    assert (await send(store, delivery=9)).reason == "finished"  # of the generation before
    assert (await send(store, generation=1, message_id="new")).accepted
    assert parse(await read(store)).redriven_at == job.redriven_at
    assert (await send(store, generation=2, message_id="newer")).accepted
    assert parse(await read(store)).redriven_at is None  # when it began to wait is unknown


async def test_submitted_job_is_cancelled_before_its_start(store: JobStore, redis: Redis) -> None:
    """Its record then has all fields of 0.1, and the start is rejected."""
    await store.apply_submissions([replace(JOB_SUBMITTED, labels=LABELS)])
    job = parse(await store.cancel(GRANT))
    assert (job.status, job.kind, job.name) == ("cancelled", "letters", "Letters of May")
    assert None not in await redis.hmget(KEY, DELIVERY_FIELDS)
    assert (await send(store)).reason == "finished"


@pytest.mark.parametrize("by", ["submission", "start"])
async def test_labels_of_a_job_that_was_cancelled_first_are_filled_in(store: JobStore, by: str) -> None:
    """A cancellation creates a record without labels; the late submission, or the rejected start, brings them."""
    cancelled = parse(await store.cancel(GRANT))
    for labels in (LABELS, Labels(owner="bob")):
        if by == "submission":
            await store.apply_submissions([replace(JOB_SUBMITTED, labels=labels)])
        else:
            assert (await send(store, labels=labels)).reason == "finished"
    job = parse(await read(store))
    assert (job.status, job.finished_at, job.name) == ("cancelled", cancelled.finished_at, "Letters of May")
    assert job.version > cancelled.version
    (record,) = await store.read([str(JOB)])
    assert record
    assert record.labels == LABELS


async def test_grant_that_requires_a_record_creates_none(store: JobStore, redis: Redis) -> None:
    """The cancellation of a job without a record has no effect."""
    assert await store.cancel(replace(GRANT, requires_record=True)) is None
    assert await redis.exists(KEY) == 0
    await send(store)
    assert parse(await store.cancel(replace(GRANT, requires_record=True))).cancel_requested


# Labels, and what reports change


async def test_owner_of_the_record_wins(store: JobStore) -> None:
    """Labels are filled in once, and replaced by no report, submission or redrive."""
    await send(store)
    for generation, owner in enumerate(("ann", "bob", "eve")):
        await send(store, sequence=5, generation=generation, labels=Labels(owner=owner))
        (record,) = await store.read([str(JOB)])
        assert record
        assert record.labels == Labels(owner="ann")


async def test_submission_time_of_the_record_wins(store: JobStore) -> None:
    """A report of a message that does not know its submission does not move it."""
    await send(store)
    await send(store, sequence=2, submitted_at=NOW.after(5), progress=None)
    assert parse(await read(store)).submitted_at == NOW


async def test_time_of_the_last_advance(store: JobStore, redis: Redis) -> None:
    """`advanced_at` is when `current` or the percentage last rose within the attempt, by the clock of Redis."""
    sequences = itertools.count(1)
    earlier = Timestamp.parse("2026-01-01T00:00:00Z")

    async def advanced(progress: Progress | None, **changes: Any) -> bool:
        if await redis.hget(KEY, "advanced_at"):
            await redis.hset(KEY, "advanced_at", earlier.to_json())
        await send(store, sequence=next(sequences), progress=progress, **changes)
        job = parse(await read(store))
        assert job.advanced_at in (None, earlier, job.updated_at)
        return job.advanced_at == job.updated_at

    assert not await advanced(None)
    assert not await advanced(Progress(0, 10))
    assert b"advanced_at" not in await read(store)
    assert await advanced(Progress(1, 10))
    assert not await advanced(Progress(1, 10, message="still"))
    assert await advanced(Progress(1, 5))  # the percentage
    assert not await advanced(Progress(1, 50))
    assert not await advanced(Progress(1))  # the total is unknown
    assert not await advanced(Progress(1, 2))  # the total is known
    assert await advanced(Progress(1.5))
    assert not await advanced(Progress(1.5), delivery=2, status="queued")  # a release
    assert parse(await read(store)).advanced_at == earlier
    assert not await advanced(None, delivery=3, attempt=2)
    assert parse(await read(store)).advanced_at is None
    assert await advanced(Progress(1), delivery=3, attempt=2)


async def test_earlier_attempts_are_those_that_ended(store: JobStore) -> None:
    """Each has its times and its outcome, and the type of its error alone; the record keeps the last five."""
    secret = JobError("ValueError", "of the customer")
    starts, ends = [], []
    steps: list[tuple[JobStatus, dict[str, Any]]] = [
        ("retrying", {"error": secret, "lease_until": None}),
        ("running", {"lease_until": NOW.after(-5)}),
        ("queued", {"lease_until": None}),
        ("retrying", {"error": JobError('a "quoted" {"attempt":type', ""), "lease_until": None}),
        ("failed", {"error": secret}),
        ("cancelled", {}),
    ]
    generation = 0
    for attempt, (status, changes) in enumerate(steps, 1):
        await send(store, generation=generation, attempt=attempt, delivery=attempt)
        starts.append(parse(await read(store)).started_at)
        await send(
            store, generation=generation, attempt=attempt, delivery=attempt, sequence=2, status=status, **changes
        )
        ended = parse(await read(store))
        ends.append(ended.updated_at if status != "running" else ended.lease_until)
        generation += status in ENDED
    await send(store, generation=generation, delivery=7, attempt=7)
    attempts = parse(await read(store)).earlier_attempts
    assert [one.attempt for one in attempts] == [2, 3, 4, 5, 6]
    assert [one.outcome for one in attempts] == ["lost", "released", "failed", "failed", "cancelled"]
    assert [one.error for one in attempts] == [None, None, 'a "quoted" {"attempt":type', "ValueError", None]
    assert [(one.started_at, one.ended_at) for one in attempts] == list(zip(starts, ends, strict=True))[1:]
    assert b"of the customer" not in await read(store)


async def test_release_is_no_earlier_attempt(store: JobStore) -> None:
    """A released job continues the same attempt, and a job that has not started had none."""
    await send(store, status="queued")
    await send(store, delivery=2)
    await send(store, delivery=2, sequence=2, status="queued")
    await send(store, delivery=3)
    assert b"earlier_attempts" not in await read(store)


async def test_callbacks_of_the_store(client: RedisClient) -> None:
    """Each transition is announced once; a request to cancel names the worker that runs the job."""
    transitions: list[str] = []
    requests: list[tuple[str, str]] = []
    store = JobStore(client, transitions.append, lambda worker, job_id: requests.append((worker, job_id)))

    async def announced(change: Awaitable[Any]) -> bool:
        transitions.clear()
        await change
        assert set(transitions) <= {str(JOB)}
        return len(transitions) == 1

    assert await announced(store.apply_submissions([JOB_SUBMITTED]))
    assert not await announced(store.apply_submissions([JOB_SUBMITTED]))
    assert await announced(send(store, worker="w-1"))
    assert not await announced(send(store, sequence=2, worker="w-1", progress=Progress(50, 100)))
    assert not await announced(send(store, sequence=2, worker="w-1"))
    assert not await announced(store.cancel(GRANT))
    assert not await announced(store.cancel(GRANT))
    assert requests == [("w-1", str(JOB))] * 2  # the worker may have missed the first one
    assert await announced(send(store, sequence=3, worker="w-1", status="retrying"))
    assert await announced(send(store, sequence=3, delivery=2, attempt=2))
    assert not await announced(store.cancel(GRANT))
    assert len(requests) == 2  # the worker has no control stream
    assert await announced(send(store, sequence=4, delivery=2, attempt=2, status="cancelled"))
    assert not await announced(store.cancel(GRANT))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", b"May"),
        ("labels", b"[]"),
        ("advanced_at", b"now"),
        ("earlier_attempts", b"[{}]"),
        ("redriven_at", b"now"),
    ],
)
async def test_damaged_optional_field_is_replaced(store: JobStore, redis: Redis, field: str, value: bytes) -> None:
    """A report does not retain a field that it would have to retain unchecked."""
    await send(store, labels=LABELS)
    await redis.hset(KEY, field, value)
    await send(store, sequence=2, labels=LABELS, progress=None)
    (record,) = await store.read([str(JOB)])
    assert record
    assert (parse(record.snapshot).name, record.labels) == ("Letters of May", LABELS)
    assert value not in await redis.hvals(KEY)
