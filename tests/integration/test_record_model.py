"""The record script on a real Valkey against the model, for random sequences of reports, cancellations and losses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import AsyncExitStack
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from msgspec.structs import replace
from redis.asyncio import Redis

from headway.contracts import (
    ENDED,
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
    encode,
)
from headway.labels import NO_LABELS, Labels
from headway.tokens import Grant
from services.notifier.records import scripts
from services.notifier.records.keys import job_key
from services.notifier.records.record_read import RecordRead
from services.notifier.records.store import JobStore
from services.notifier.redis_client.url import redis_from_url
from tests.integration.record_model import (
    RETENTION_MS,
    Record,
    accept,
    cancel,
    is_transition,
    reject,
    rejection,
    submit,
)
from tests.waiting import PATIENCE_S, wait_until

T = TypeVar("T")
MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
# Offsets in ms. None is close to a time at which the outcome changes, even after a record has aged by eleven minutes.
TIME_OFFSETS = st.sampled_from([None, -1 * MINUTE_MS, MINUTE_MS // 2, 5 * MINUTE_MS])
# How many ms the worker's clock is ahead; None if the report does not contain the time when it was sent.
CLOCK_ERRORS = st.sampled_from([0, 0, None, 2 * MINUTE_MS, -2 * MINUTE_MS, 8 * DAY_MS, -8 * DAY_MS])
LABELS = st.sampled_from([None, None, Labels(owner="ann", tags=("a", "b")), Labels(name="Letters of May", owner="bob")])
WORKERS = st.sampled_from(["w-1", "w-1", "w-2", None])
STATUSES: list[JobStatus] = ["running"] * 6 + ["retrying", "queued", "succeeded", "failed", "cancelled"]  # type: ignore[assignment]


class Store:
    """Synchronous access to Redis: an event loop, a client and a job store."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)  # pytest-asyncio keeps its own loop
        self._open = AsyncExitStack()
        self.client = self.run(self._open.enter_async_context(redis_from_url(url)))
        self.transitions: list[str] = []
        self.cancel_requests: list[tuple[str, str]] = []
        self.records = self.new_records()
        self.redis = self.run(self._open.enter_async_context(Redis.from_url(url)))

    def new_records(self) -> JobStore:
        """Return a job store with the current text of the script."""
        on_cancel_requested = lambda worker, job_id: self.cancel_requests.append((worker, job_id))  # noqa: E731
        return JobStore(self.client, self.transitions.append, on_cancel_requested)

    def run(self, work: Awaitable[T]) -> T:
        """Run an awaitable until it is done."""
        return self._runner.get_loop().run_until_complete(work)

    def close(self) -> None:
        """Close the clients, then their loop."""
        self.run(self._open.aclose())
        self._runner.close()


class JobMachine(RuleBasedStateMachine):
    """A job, the events that may change it, and the model's expectation of each step."""

    sent = Bundle("sent")

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.job_id = uuid4()
        self.key = job_key(self.job_id)
        self.start = Timestamp.now()
        self.old: Record | None = None  # before the last step
        self.record: Record | None = None
        self.floor = 0  # every later version must be greater
        self.clock_error: int | None = 0  # of the worker
        self.pubsub: Any = None
        store.transitions.clear()
        store.cancel_requests.clear()

    def after(self, offset_ms: int | None) -> Timestamp | None:
        """Return the time at an offset from the machine's start; equal offsets give equal times."""
        return None if offset_ms is None else Timestamp(self.start + offset_ms)

    # Rules

    @initialize(target=sent)
    def begin(self) -> JobReport:
        """Generate the first report of a start; it is not always applied first."""
        return self.new_report(0, "a", 2, 5, "running", None, None, None, DAY_MS)

    @rule(
        target=sent,
        generation=st.sampled_from([0] * 8 + [1, -1]),
        other=st.sampled_from([False] * 4 + [True]),
        delivery=st.sampled_from([0, 0, 0, 1, -1]),
        sequence=st.sampled_from([1, 1, 1, 0, -1]),
        status=st.sampled_from(STATUSES),
        percent=st.sampled_from([None, 0, 40.0]),
        lease=TIME_OFFSETS,
        due=TIME_OFFSETS,
        expires=st.sampled_from([-5 * MINUTE_MS, DAY_MS]),
        labels=LABELS,
        worker=WORKERS,
    )
    def report(
        self,
        generation: int,
        other: bool,
        delivery: int,
        sequence: int,
        status: JobStatus,
        percent: float | None,
        lease: int | None,
        due: int | None,
        expires: int,
        labels: Labels | None,
        worker: str | None,
    ) -> JobReport:
        """Apply a report that differs a little from the record: newer, older or of another message."""
        state = self.record.state if self.record else None
        message_id = (state and state.message_id) or "a"
        report = self.new_report(
            max(0, (state.generation if state else 1) + generation),
            {"a": "b"}.get(message_id, "a") if other else message_id,
            max(1, (state.delivery if state else 2) + delivery),
            max(0, (state.sequence if state else 5) + sequence),
            status,
            percent,
            lease,
            due,
            expires,
        )
        report = replace(report, labels=labels, worker=worker)
        self.send(report)
        return report

    @rule(generation=st.sampled_from([0, 0, 1, -1]), due=TIME_OFFSETS, labels=LABELS)
    def submit(self, generation: int, due: int | None, labels: Labels | None) -> None:
        """Submit the job, once more, late, or for its next generation."""
        job = SubmittedJob(
            id=self.job_id,
            kind="countdown",
            labels=labels,
            submitted_at=self.start,
            due_at=self.after(due),
            expires_at=Timestamp(self.start + 60 * MINUTE_MS),
            generation=max(0, (self.record.state.generation if self.record else 0) + generation),
        )
        before = Timestamp.now()
        self.store.run(self.store.records.apply_submissions([job]))
        found, expiry = self.read_record()
        assert found
        new = submit(self.record, job, self.script_time(before, found.snapshot))
        assert found.snapshot == new.snapshot
        self.advance(new, expiry)

    @rule(report=sent, late_ms=st.sampled_from([0, MINUTE_MS // 6]))
    def resend(self, report: JobReport, late_ms: int) -> None:
        """Apply an earlier report again, or late."""
        self.send(report, late_ms)

    @rule(error=CLOCK_ERRORS)
    def set_clock(self, error: int | None) -> None:
        """Set the clock of the worker, also while the job runs."""
        self.clock_error = error

    @precondition(lambda self: self.has_delivery())
    @rule(delivery=st.sampled_from([0, 0, 1, -1]), sequence=st.sampled_from([1, 2, -1]))
    def heartbeat(self, delivery: int, sequence: int) -> None:
        """Apply the last report again with another delivery or sequence."""
        assert self.record
        state = self.record.state
        moved = {"delivery": max(1, state.delivery + delivery), "sequence": max(0, state.sequence + sequence)}
        self.send(replace(state, **moved))

    @precondition(lambda self: self.record is not None and self.record.state.status in ENDED)
    @rule(delivery=st.sampled_from([1, 3]), sequence=st.sampled_from([0, 5]), lease=TIME_OFFSETS)
    def redrive(self, delivery: int, sequence: int, lease: int | None) -> None:
        """Redrive the ended job."""
        assert self.record
        generation = self.record.state.generation + 1
        self.send(self.new_report(generation, "a", delivery, sequence, "running", None, lease, None, DAY_MS))

    @precondition(lambda self: self.ageable() and self.has_delivery())
    @rule(
        lease=TIME_OFFSETS, due=TIME_OFFSETS, minutes=st.sampled_from([9, 11, 11]), sequence=st.sampled_from([-1, 0, 1])
    )
    def take_over(self, lease: int | None, due: int | None, minutes: int, sequence: int) -> None:
        """Apply a last report, let some minutes pass, then apply a report of another message."""
        assert self.record
        state = replace(
            self.record.state,
            sequence=self.record.state.sequence + 1,
            lease_until=self.after(lease),
            due_at=self.after(due),
        )
        self.send(state)
        self.age(minutes)
        message_id = "b" if state.message_id == "a" else "a"
        self.send(replace(state, message_id=message_id, sequence=state.sequence + sequence))

    @precondition(lambda self: self.record is not None)
    @rule(changed=st.sampled_from(["sequence", "delivery", "message_id"]))
    def change_hidden_field(self, changed: str) -> None:
        """Change only a field that snapshots do not show; the same report again must be rejected."""
        assert self.record
        generation = self.record.state.generation + 1
        waiting = self.new_report(generation, "a", 1, 5, "queued", None, None, None, DAY_MS)
        self.send(waiting)
        if changed == "message_id":
            self.age(11)
        report = replace(waiting, **{changed: {"sequence": 6, "delivery": 2, "message_id": "b"}[changed]})
        self.send(report)
        self.send(report)

    @rule(
        due=TIME_OFFSETS,
        found=st.sampled_from([None, "running", "running", "retrying"]),
        lease=st.sampled_from([-1 * MINUTE_MS, 5 * MINUTE_MS, 5 * MINUTE_MS]),
        times=st.sampled_from([1, 2]),
    )
    def cancel(self, due: int | None, found: JobStatus | None, lease: int, times: int) -> None:
        """Cancel the job, once or twice, possibly right after a lease or a retry."""
        if self.record and found:
            state = self.record.state
            sequence, lease_until = state.sequence + 1, self.after(lease)
            self.send(replace(state, status=found, sequence=sequence, lease_until=lease_until))
        grant = Grant(
            job_id=self.job_id,
            kind="countdown",
            submitted_at=self.start,
            due_at=self.after(due),
            expires_at=Timestamp(self.start + 60 * MINUTE_MS),
        )
        for _ in range(times):
            before = Timestamp.now()
            snapshot = self.store.run(self.store.records.cancel(grant))
            assert snapshot is not None
            new = cancel(self.record, grant, self.script_time(before, snapshot))
            assert snapshot == new.snapshot
            worker = new.state.worker if new.state.status == "running" else None
            assert self.store.cancel_requests == ([(worker, str(self.job_id))] if worker else [])
            self.store.cancel_requests.clear()
            self.advance(new, self.read_record()[1])

    @precondition(lambda self: self.record is not None)
    @rule()
    def delete(self) -> None:
        """Delete the record, once the clock is past its version: a loss and a stopped clock are two faults."""
        assert self.record
        version = self.record.version
        self.store.run(wait_until(lambda: Timestamp.now() > version, poll_s=0.001))
        self.store.run(self.store.redis.delete(self.key))
        self.old = self.record = None

    @precondition(lambda self: self.ageable())
    @rule(minutes=st.sampled_from([9, 11, 11]))
    def age(self, minutes: int) -> None:
        """Age the record by some minutes without a change, by moving the record's times and its version back."""
        assert self.record
        ms, state = minutes * MINUTE_MS, self.record.state
        lease_until, due_at = (time and Timestamp(time - ms) for time in (state.lease_until, state.due_at))
        self.record = replace(
            self.record,
            state=replace(state, lease_until=lease_until, due_at=due_at),
            version=self.record.version - ms,
            expiry=self.record.expiry - ms,
        )
        self.rewrite(
            lease_until=encode(lease_until),
            lease_ms=int(lease_until or 0),
            due_at=encode(due_at),
            due_ms=int(due_at or 0),
        )

    @precondition(lambda self: self.record is not None)
    @rule()
    def fail_over(self) -> None:
        """Fail over to a Redis whose clock is a little behind."""
        assert self.record
        self.record = replace(self.record, version=max(self.record.version, Timestamp.now()) + 50)
        self.rewrite()

    @rule()
    def watch(self) -> None:
        """Subscribe to the job's channel, or unsubscribe."""
        self.store.run(self.subscribe() if self.pubsub is None else self.unsubscribe())

    # Invariants

    @invariant()
    def record_equals_the_model(self) -> None:
        """The snapshot and the expiry of the key are those of the model."""
        found, expiry = self.read_record()
        assert expiry == (self.record.expiry if self.record else -2)
        if self.record is None:
            assert found is None
            return
        assert found
        assert found.snapshot == self.record.snapshot
        assert found.labels == (self.record.labels or NO_LABELS)
        assert found.worker == self.record.state.worker

    @invariant()
    def state_never_goes_back(self) -> None:
        """An ended job does not change, and the sequence of a delivery does not decrease."""
        old, new = self.old, self.record
        if old is None or new is None or old is new:
            return
        if old.state.generation == new.state.generation and old.state.status in ENDED and old.labels == new.labels:
            assert old.snapshot == new.snapshot, "an ended job changed"
        if old.delivery_key == new.delivery_key and old.state is not new.state and new.state.status != "cancelled":
            assert new.state.sequence >= old.state.sequence, "a sequence decreased"

    # Helpers

    def has_delivery(self) -> bool:
        """Return whether a delivery of the job has been reported."""
        return self.record is not None and bool(self.record.state.message_id)

    def ageable(self) -> bool:
        """Return whether there is a record that would not expire when it ages."""
        return self.record is not None and self.record.expiry - self.start > 30 * MINUTE_MS

    def new_report(
        self,
        generation: int,
        message_id: str,
        delivery: int,
        sequence: int,
        status: JobStatus,
        percent: float | None,
        lease: int | None,
        due: int | None,
        expires: int,
    ) -> JobReport:
        """Return a report of this job."""
        progress = None if percent is None else Progress(percent, 100, "%")
        return JobReport(
            job_id=self.job_id,
            kind="countdown",
            generation=generation,
            message_id=message_id,
            delivery=delivery,
            sequence=sequence,
            attempt=delivery,
            status=status,
            progress=progress,
            submitted_at=self.start,
            result=Json(b"[]" if status == "succeeded" else b"null"),
            error=JobError("ValueError", "…") if status in ("retrying", "failed") else None,
            lease_until=self.after(lease),
            due_at=self.after(due),
            expires_at=Timestamp(self.start + expires),
        )

    def send(self, report: JobReport, late_ms: int = 0) -> None:
        """Apply a report to Redis and to the model, and compare the verdicts and snapshots.

        Only Redis gets the times by the worker's clock: the model shows that the clock does not matter.
        """
        before = Timestamp.now()
        report = replace(report, sent_at=None if self.clock_error is None else Timestamp(before - late_ms))
        (verdict,) = self.store.run(self.store.records.apply_reports([self.by_worker_clock(report)]))
        found, expiry = self.read_record()
        assert found
        now = self.script_time(before, found.snapshot)
        reason = rejection(self.record, report, now)
        new = reject(self.record, report, now) if self.record and reason else accept(self.record, report, now)
        watched = reason is None and self.pubsub is not None
        assert verdict == Verdict(self.job_id, reason is None, reason, new.cancel_requested, watched)
        assert found.snapshot == new.snapshot
        self.advance(new, expiry)

    def by_worker_clock(self, report: JobReport) -> JobReport:
        """Return the report as the worker writes it."""
        times = {name: getattr(report, name) for name in ("sent_at", "lease_until", "due_at")}
        error = self.clock_error or 0
        return replace(report, **{name: time and Timestamp(time + error) for name, time in times.items()})

    def script_time(self, before: Timestamp, snapshot: bytes) -> Timestamp:
        """Return the time at which the script ran: the snapshot's `updated_at` if it changed, otherwise `before`."""
        updated_at = decode(snapshot, JobSnapshot).updated_at
        return updated_at if updated_at and before <= updated_at <= Timestamp.now() else before

    def advance(self, new: Record, expiry: int) -> None:
        """Advance the model, and check that a new version is greater than all earlier ones and was published."""
        self.old, self.record = self.record, new
        assert self.store.transitions == ([str(self.job_id)] if is_transition(self.old, new) else [])
        self.store.transitions.clear()
        if new is not self.old and new.expiry <= expiry <= Timestamp.now() + RETENTION_MS:
            # Nothing changed: the expiry is the only sign of the time at which the script ran.
            self.record = new = replace(new, expiry=expiry)
        if self.old is None or new.version != self.old.version:
            assert new.version > self.floor, "a version was repeated"
            self.floor = new.version
            if self.pubsub is not None:
                assert self.store.run(self.next_publication()) == new.snapshot

    def read_record(self) -> tuple[RecordRead | None, int]:
        """Return the record and the expiry of its key."""
        (found,) = self.store.run(self.store.records.read([str(self.job_id)]))
        return found, self.store.run(self.store.redis.pexpiretime(self.key))

    def rewrite(self, **fields: int | bytes) -> None:
        """Write the model's version and expiry, and some fields, directly to Redis."""
        assert self.record
        self.old, self.floor = None, self.record.version
        values = {"version": self.record.version, **fields}
        pairs: list[Any] = [part for pair in values.items() for part in pair]
        self.store.run(self.store.redis.hset(self.key, items=pairs))
        self.store.run(self.store.redis.pexpireat(self.key, self.record.expiry))

    async def subscribe(self) -> None:
        """Subscribe, and wait for Redis to confirm it."""
        self.pubsub = self.store.redis.pubsub()
        await self.pubsub.subscribe(self.key)
        await self.pubsub.get_message(timeout=PATIENCE_S)

    async def unsubscribe(self) -> None:
        """Unsubscribe, and wait for Redis to confirm it."""
        await self.pubsub.unsubscribe(self.key)
        await self.pubsub.get_message(timeout=PATIENCE_S)
        await self.pubsub.aclose()
        self.pubsub = None

    async def next_publication(self) -> bytes:
        """Return the next publication."""
        message = await self.pubsub.get_message(timeout=PATIENCE_S)
        assert message, "nothing was published"
        return bytes(message["data"])

    def teardown(self) -> None:
        """Close the subscription."""
        if self.pubsub is not None:
            self.store.run(self.pubsub.aclose())


@pytest.fixture
def store(redis: Redis, stores: dict[str, str]) -> Iterator[Store]:
    """Yield access to the emptied Valkey."""
    store = Store(stores["REDIS_URL"])
    yield store
    store.close()


SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
THOROUGH = settings(
    max_examples=120, stateful_step_count=40, deadline=None, print_blob=True, suppress_health_check=SLOW
)
QUICK = settings(THOROUGH, phases=[Phase.generate], database=None, report_multiple_bugs=False, print_blob=False)


def run_job_machine(store: Store, profile: settings) -> None:
    """Run the state machine; Hypothesis only calls its argument, which is typed as a class."""
    run_machine(lambda: JobMachine(store), settings=profile)  # type: ignore[arg-type]


def test_record_script_follows_the_model(store: Store) -> None:
    """Verdicts, snapshots, versions and expiry are those of the model, in any order of events."""
    run_job_machine(store, THOROUGH)


@pytest.mark.parametrize(
    ("clause", "without"),
    [
        pytest.param("if compare('generation') < 0 then return 'finished' end", "", id="older generation"),
        pytest.param("if compare('generation') > 0 then return nil end", "", id="newer generation"),
        pytest.param("if ENDED[old.status] then return 'finished' end", "", id="ended"),
        pytest.param("and 'duplicate' or nil", "and nil", id="another message"),
        pytest.param("now < last_sign_of_life + TAKEOVER_MS and 'duplicate' or nil", "'duplicate'", id="takeover"),
        pytest.param("if compare('delivery') < 0 then return 'superseded' end", "", id="older delivery"),
        pytest.param("if compare('delivery') > 0 then return nil end", "", id="newer delivery"),
        pytest.param("compare('sequence') <= 0 and 'stale' or nil", "nil", id="stale"),
        pytest.param("now - (tonumber(new.sent_ms) or now)", "0", id="wrong clock"),
        pytest.param("<= tolerance_ms", "<= 1e9", id="changed lease"),
        pytest.param("if progress == earlier then return false end", "do return true end", id="advance"),
        pytest.param("return '[' .. entries .. ']'", "return '[' .. entry .. ']'", id="earlier attempts"),
    ],
)
def test_each_clause_of_the_script_is_needed(
    store: Store, monkeypatch: pytest.MonkeyPatch, clause: str, without: str
) -> None:
    """Without any one of these clauses, the script deviates from the model."""
    assert scripts.SCRIPT.count(clause.encode()) == 1
    text = scripts.SCRIPT.replace(clause.encode(), without.encode())
    monkeypatch.setattr(scripts, "SCRIPT", text)
    monkeypatch.setattr(store, "records", store.new_records())
    with pytest.raises((AssertionError, Flaky)):  # a deviation that depends on the time may not occur again
        run_job_machine(store, QUICK)
