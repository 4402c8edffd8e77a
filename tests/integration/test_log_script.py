"""The log script: random histories against a model, and its limits by examples.

Long form, of 3,000 histories: LONG=1 make test ARGS=tests/integration/test_log_script.py
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from headway.contracts import Timestamp
from headway.details import MAX_LOG_BYTES, MAX_SUCCEEDED_LOG_BYTES, LogAppend, LogVerdict
from services.notifier import metrics
from services.notifier.logs.store import LogStore, StoredLog
from services.notifier.records.keys import job_key, log_key, log_text_key
from services.notifier.records.store import JobStore
from services.notifier.redis_client.topology import RedisClient
from services.notifier.redis_client.url import redis_from_url
from tests.reports import first_report

HISTORIES = 3_000 if os.environ.get("LONG") == "1" else 200
MISSING = "…\n"
LINE = "a line of a log, as long as most of them are, at 12:00:00.000 INFO with ünïcödé\n"
HOUR_MS = 3_600_000


@pytest.fixture
async def client(redis: Redis, stores: dict[str, str]) -> AsyncIterator[RedisClient]:
    """Yield a client of the emptied Valkey."""
    async with redis_from_url(stores["REDIS_URL"]) as client:
        yield client


class Log:
    """The log of one job, to which its deliveries append."""

    def __init__(self, redis: Redis, client: RedisClient) -> None:
        self.job_id = uuid.uuid4()
        self.is_full = False
        self.store = LogStore(client, lambda: self.is_full)
        self._redis = redis

    async def put_record(
        self, message_id: str = "m", delivery: int = 1, generation: int = 0, status: str = "running"
    ) -> None:
        """Store a record that names a delivery."""
        names: dict[Any, Any] = {
            "generation": generation,
            "message_id": message_id,
            "delivery": delivery,
            "status": f'"{status}"',
        }
        key, expires_ms = job_key(self.job_id), int(Timestamp.now()) + HOUR_MS
        await self._redis.hset(key, mapping={**names, "expires_ms": expires_ms})
        await self._redis.pexpireat(key, expires_ms + HOUR_MS)

    async def append(self, text: str, start: int = 0, **fields: Any) -> LogVerdict:
        """Append a text, of the first delivery unless `fields` name another one."""
        fields = {"message_id": "m", "delivery": 1, **fields}
        (verdict,) = await self.store.append([LogAppend(job_id=self.job_id, start=start, text=text, **fields)])
        return verdict

    async def read(self, offset: int = 0) -> StoredLog:
        """Return the log from an offset."""
        (log,) = await self.store.read([(str(self.job_id), offset)])
        assert log is not None
        return log

    async def memory(self) -> int:
        """Return how many bytes Redis uses for the log."""
        keys = log_key(self.job_id), log_text_key(self.job_id)
        return sum([await self._redis.memory_usage(key) or 0 for key in keys])


@pytest.fixture
async def log(redis: Redis, client: RedisClient) -> Log:
    """Return the log of a job that runs its first delivery."""
    log = Log(redis, client)
    await log.put_record()
    return log


class Model:
    """What a log must contain: each byte of a delivery once, in order, and a mark where some are missing."""

    def __init__(self) -> None:
        self.text = ""
        self.named = ("m0", 1, 0)  # the delivery that the record names: message, delivery, generation
        self._delivery: tuple[str, int, int] | None = None
        self._known = 0
        self._has_more = False

    def append(self, delivery: tuple[str, int, int], start: int, text: str, *, more: bool) -> bool:
        """Append a text; return whether it is accepted."""
        if delivery != self.named:
            return False
        if not (text or self.text):
            return True
        is_missing = False
        if self._delivery != delivery:
            is_missing = self._has_more
            self._delivery, self._known, self._has_more = delivery, 0, True
        if is_missing or start > self._known:
            self.text += MISSING + text
        else:
            self.text += text.encode()[self._known - start :].decode()
        self._known = max(self._known, start + len(text.encode()))
        self._has_more = self._has_more and more
        return True


POSITIONS = st.integers(0, 9)
ACTIONS = st.one_of(  # of workers and of the queue
    st.tuples(st.just("write"), st.sampled_from(["a\n", "é…", "\0\x1b[1m", "</script>", "12:00 INFO ok\n"])),
    # The delivery, by its age, the part of its log, and whether more follows.
    st.tuples(st.just("send"), st.tuples(st.integers(0, 2), POSITIONS, POSITIONS, st.booleans())),
    st.tuples(st.just("send"), st.tuples(st.just(0), st.none(), st.none(), st.booleans())),  # what is new
    st.sampled_from([("deliver", "again"), ("deliver", "redriven"), ("deliver", "taken over")]),
)


@given(history=st.lists(ACTIONS, min_size=4, max_size=18))
@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_random_histories_end_with_the_exact_text(
    redis: Redis, client: RedisClient, history: list[tuple[str, Any]]
) -> None:
    """With repeats, overlaps, gaps, older deliveries, restarts, redrives, and takeovers by other messages."""
    log, model = Log(redis, client), Model()
    await log.put_record("m0")
    texts, sent = {model.named: ""}, {model.named: 0}  # by delivery: its own log, and how many characters were sent
    for action, value in history:
        current = model.named
        if action == "write":
            texts[current] += value
        elif action == "deliver":
            message_id, delivery, generation = current
            if value == "again":
                delivery += 1
            else:
                message_id, delivery = f"m{len(texts)}", 1
                generation += value == "redriven"
            model.named = message_id, delivery, generation
            texts[model.named], sent[model.named] = "", 0
            await log.put_record(*model.named)
        else:
            age, first, last, more = value
            sender = list(texts)[-1 - min(age, len(texts) - 1)]
            text = texts[sender]
            if first is None:
                first, last = sent[sender], len(text)
                sent[sender] = last
            piece, start = text[first:last], len(text[:first].encode())
            named = dict(zip(("message_id", "delivery", "generation"), sender, strict=True))
            verdict = await log.append(piece, start, more=more, **named)
            assert verdict.accepted == model.append(sender, start, piece, more=more)
    (stored,) = await log.store.read([(str(log.job_id), 0)])
    assert (b"" if stored is None else stored.data).decode() == model.text
    assert stored is None or (stored.base, stored.end) == (0, len(model.text.encode()))


async def test_only_the_delivery_that_the_record_names_may_append(log: Log) -> None:
    """Also after the job has ended; any other one gets the reason, and changes nothing."""
    other_job = Log(log._redis, log.store._script._redis)
    assert (await other_job.append("x")).reason == "unknown"
    await log.put_record("m", 2, 1)
    others: list[dict[str, Any]] = [{"delivery": 1}, {"generation": 0, "delivery": 9}, {"message_id": "other"}]
    for fields in others:
        verdict = await log.append("x", **{"delivery": 2, "generation": 1, **fields})
        assert (verdict.accepted, verdict.reason) == (False, "superseded")
    newer: list[dict[str, Any]] = [{"delivery": 3}, {"generation": 2, "message_id": "other"}]
    for fields in newer:  # their reports have not arrived yet
        assert (await log.append("x", **{"delivery": 2, "generation": 1, **fields})).reason == "unknown"
    for status in ("running", "failed", "succeeded"):
        await log.put_record("m", 2, 1, status)
        assert (await log.append("x", delivery=2, generation=1)).accepted
    assert (await log.read()).data == b"x"


async def test_the_missing_end_of_a_delivery_is_marked(log: Log) -> None:
    """A worker that died, or whose last append came too late, has not ended the log of its delivery."""
    await log.append("first\n", more=True)
    await log.put_record(delivery=2)
    assert (await log.append("last words", 6)).reason == "superseded"
    await log.append("second\n", delivery=2, more=True)
    await log.append("", 7, delivery=2)
    await log.append("second\n", delivery=2, more=True)  # a repetition that was delayed
    await log.put_record(delivery=3)
    await log.append("third\n", delivery=3)
    assert (await log.read()).data.decode() == f"first\n{MISSING}second\nthird\n"


async def test_the_record_of_a_real_report_is_understood(log: Log, client: RedisClient) -> None:
    """The fields of a record that the fence of logs compares are those that the record script writes."""
    report = first_report(log.job_id)
    await log._redis.delete(job_key(log.job_id))
    assert (await JobStore(client).apply_reports([report]))[0].accepted
    assert (await log.append("x", message_id=report.message_id)).accepted
    ttls = [await log._redis.pttl(name(log.job_id)) for name in (job_key, log_key, log_text_key)]
    assert max(ttls) - min(ttls) < 5_000


async def test_a_large_log_keeps_its_newer_half_from_a_line_start(log: Log) -> None:
    """Offsets go on rising, and the memory stays within the documented bound, whatever the sizes of the appends."""
    written, memory = "", 0
    for number in range(150):
        piece = f"{number} {LINE}" * (1 + number % 40)
        assert (await log.append(piece, len(written.encode()))).accepted
        written += piece
        memory = max(memory, await log.memory())
    stored, data = await log.read(), written.encode()
    assert stored.end == len(data)
    assert MAX_LOG_BYTES // 2 - len(LINE) * 2 < len(stored.data) == stored.end - stored.base <= MAX_LOG_BYTES
    assert data.endswith(stored.data)
    assert data[stored.base - 1 :].startswith(b"\n")
    assert (await log.read(stored.end - 5)).data == data[-5:]
    assert memory < MAX_LOG_BYTES + 2_048


async def test_lines_keep_their_numbers_and_attempts(log: Log) -> None:
    """While older lines are dropped again and again, the log knows their number, and which attempt wrote what."""
    written: list[tuple[int, bytes]] = []  # the attempt and the text of each line
    for number in range(1_500):
        attempt, text = 1 + number // 300, f"{number} {LINE}"
        start = sum(len(line) for _attempt, line in written[300 * (attempt - 1) :])
        await log.put_record(delivery=attempt)
        assert (await log.append(text, start, delivery=attempt, attempt=attempt)).accepted
        written.append((attempt, text.encode()))
        if number % 100 == 99 or number % 300 == 0:
            stored = await log.read()
            assert stored.data == b"".join(line for _attempt, line in written[stored.lines :])
            pieces = stored.pieces(str(log.job_id), 0)
            attempts = dict.fromkeys(attempt for attempt, _line in written[stored.lines :])
            texts = [b"".join(line for by, line in written[stored.lines :] if by == each) for each in attempts]
            assert [(piece.attempt, piece.data) for piece in pieces] == list(zip(attempts, texts, strict=True))
    assert stored.lines > 900


async def test_many_attempts_cost_little(log: Log) -> None:
    """The text of the oldest attempts counts as that of the first one whose beginning is known."""
    for attempt in range(1, 41):
        await log.put_record(delivery=attempt)
        assert (await log.append("line\n", delivery=attempt, attempt=attempt)).accepted
    pieces = (await log.read()).pieces(str(log.job_id), 0)
    assert [piece.attempt for piece in pieces] == [21, *range(21, 41)]
    assert pieces[0].data == b"line\n" * 20


async def test_a_log_without_line_breaks_keeps_whole_characters(log: Log) -> None:
    """A line that is longer than the limit is cut between two characters."""
    for number in range(10):
        assert (await log.append("é" * 10_001, number * 20_002)).accepted
    stored = await log.read()
    assert set(stored.data.decode()) == {"é"}
    assert stored.end == 200_020


@pytest.mark.parametrize("status", ["succeeded", "cancelled"])
async def test_a_done_job_keeps_the_end_of_its_log(log: Log, status: str) -> None:
    """The last append, which is empty, cuts the log to 8 KiB; it is read as such before. That of a failed job stays."""
    text = LINE * 300
    await log.append(text)
    await log.put_record(status="failed")
    assert (await log.append("", len(text.encode()))).accepted
    assert (await log.read()).data == text.encode()
    await log.put_record(status=status)
    shown = [await log.read(offset) for offset in (0, len(text.encode()) - 9)]
    assert (await log.append("", len(text.encode()))).accepted
    stored = await log.read()
    assert shown == [stored, await log.read(len(text.encode()) - 9)]
    assert MAX_SUCCEEDED_LOG_BYTES - len(LINE.encode()) < len(stored.data) <= MAX_SUCCEEDED_LOG_BYTES
    assert stored.data.decode().removeprefix(LINE[-len(LINE) :]) in text
    assert stored.end == len(text.encode())
    assert await log.memory() < MAX_SUCCEEDED_LOG_BYTES + 2_048


async def test_an_empty_append_creates_no_log(log: Log) -> None:
    """A job that has logged nothing costs no memory."""
    assert (await log.append("")).accepted
    assert await log.store.read([(str(log.job_id), 0)]) == [None]
    assert await log._redis.exists(log_key(log.job_id), log_text_key(log.job_id)) == 0


async def test_a_log_is_opened_to_watchers_as_a_whole(log: Log) -> None:
    """Lines that were written for holders of `details` stay with them, although a later delivery opens its own."""
    await log.append("open", watchers=True)
    assert (await log.read()).for_watchers
    await log.append("closed", 4)
    assert not (await log.read()).for_watchers
    await log.append("open", 10, watchers=True)
    assert not (await log.read()).for_watchers


async def test_full_memory_takes_no_log(log: Log) -> None:
    """While Redis has memory for records only; then a mark shows that text is missing."""
    await log.append("first\n")
    log.is_full = True
    assert (await log.append("second\n", 6)).reason == "full"
    log.is_full = False
    gaps = metrics.LOG_GAPS.labels().value
    assert (await log.append("third\n", 13, attempt=1)).accepted
    assert (await log.read()).data.decode() == f"first\n{MISSING}third\n"
    assert metrics.LOG_GAPS.labels().value == gaps + 1


async def test_a_log_of_an_older_version_goes_on(log: Log, redis: Redis) -> None:
    """Its text counts as that of the attempt that has logged last, and its lines from the oldest one that it has."""
    await log.append("first\n", attempt=2)
    await redis.hdel(log_key(log.job_id), "lines", "sections")
    assert (await log.read()).sections == ((2, 0),)
    await log.put_record(delivery=2)
    assert (await log.append("second\n", delivery=2, attempt=3)).accepted
    assert (await log.read()).sections == ((2, 0), (3, 6))


@pytest.mark.parametrize("damage", ["text", "state", "types", "fields"])
async def test_a_damaged_log_goes_on(log: Log, redis: Redis, damage: str) -> None:
    """An evicted or damaged key costs the earlier text, but no later one."""
    state, text = log_key(log.job_id), log_text_key(log.job_id)
    await log.append("lost\n")
    if damage == "text":
        await redis.delete(text)
    elif damage == "state":
        await redis.delete(state)
    elif damage == "fields":
        await redis.hset(state, "end", "many")
    else:
        await redis.delete(state, text)
        await redis.set(state, "x", ex=60)
        await redis.hset(text, "x", "y")
    (stored,) = await log.store.read([(str(log.job_id), 0)])
    assert stored is None or stored.data == b""
    assert (await log.append("new\n", 5)).accepted
    log_now = await log.read()
    assert log_now.data.decode().removeprefix(MISSING) == "new\n"
    assert log_now.end == (9 if damage == "text" else 8)
