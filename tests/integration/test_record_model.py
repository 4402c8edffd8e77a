"""The gate against the real Valkey and a model of its contract, under every order of reports, cancels and losses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import AsyncExitStack
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from msgspec.structs import replace
from redis.asyncio import Redis

from headway.contracts import (
    ENDED,
    JobReport,
    JobSnapshot,
    JobStatus,
    Json,
    Progress,
    Timestamp,
    Verdict,
    decode,
    encode,
)
from headway.tokens import Grant
from services.notifier.records import scripts
from services.notifier.records.keys import job_key
from services.notifier.records.store import JobStore
from services.notifier.redis_client.url import redis_from_url
from tests.integration.record_model import RETENTION_MS, Record, accept, cancel, rejection
from tests.waiting import wait_until

T = TypeVar("T")
MINUTE_MS = 60_000
# All far from the moments at which something changes, before and after the eleven minutes by which a record is aged.
MOMENTS = st.sampled_from([None, -1 * MINUTE_MS, MINUTE_MS // 2, 5 * MINUTE_MS])
STATUSES: list[JobStatus] = ["running"] * 6 + ["retrying", "queued", "succeeded", "failed", "cancelled"]  # type: ignore[assignment]


class Store:
    """A Valkey reached by synchronous code: one event loop, one client, one gate."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)  # pytest-asyncio keeps its own loop
        self._open = AsyncExitStack()
        self.servers = self.run(self._open.enter_async_context(redis_from_url(url)))
        self.records = JobStore(self.servers)
        self.redis = self.run(self._open.enter_async_context(Redis.from_url(url)))

    def run(self, work: Awaitable[T]) -> T:
        """Run to the end."""
        return self._runner.get_loop().run_until_complete(work)

    def close(self) -> None:
        """Close the clients, then their loop."""
        self.run(self._open.aclose())
        self._runner.close()


class Gate(RuleBasedStateMachine):
    """One job, all that may happen to it, and the model's word on each."""

    sent = Bundle("sent")

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.job_id = uuid4()
        self.key = job_key(self.job_id)
        self.start = Timestamp.now()
        self.old: Record | None = None  # before the last step
        self.record: Record | None = None
        self.floor = 0  # no version at or under it may come again
        self.pubsub: Any = None

    def after(self, offset_ms: int | None) -> Timestamp | None:
        """Name a moment by its distance from the machine's start, so that the same moment comes again."""
        return None if offset_ms is None else Timestamp(self.start + offset_ms)

    # What happens

    @initialize(target=sent)
    def begin(self) -> JobReport:
        """A first start report, sometimes overtaken."""
        return self.make(0, "a", 2, 5, "running", None, None, None, 24 * 60 * MINUTE_MS)

    @rule(
        target=sent,
        generation=st.sampled_from([0] * 8 + [1, -1]),
        other=st.sampled_from([False] * 4 + [True]),
        delivery=st.sampled_from([0, 0, 0, 1, -1]),
        sequence=st.sampled_from([1, 1, 1, 0, -1]),
        status=st.sampled_from(STATUSES),
        percent=st.sampled_from([None, 0, 40.0]),
        lease=MOMENTS,
        due=MOMENTS,
        expires=st.sampled_from([-5 * MINUTE_MS, 24 * 60 * MINUTE_MS]),
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
    ) -> JobReport:
        """A report that differs a little from the record: ahead of it, behind it, or from elsewhere."""
        state = self.record.state if self.record else None
        message_id = state.message_id if state else "a"
        report = self.make(
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
        self.send(report)
        return report

    @rule(report=sent)
    def resend(self, report: JobReport) -> None:
        """A report comes again, or late."""
        self.send(report)

    @precondition(lambda self: self.record is not None and self.record.state.message_id)
    @rule(delivery=st.sampled_from([0, 0, 1, -1]), sequence=st.sampled_from([1, 2, -1]))
    def heartbeat(self, delivery: int, sequence: int) -> None:
        """The last report again, only its place in the order is another."""
        assert self.record
        state = self.record.state
        moved = {"delivery": max(1, state.delivery + delivery), "sequence": max(0, state.sequence + sequence)}
        self.send(replace(state, **moved))

    @precondition(lambda self: self.record is not None and self.record.state.status in ENDED)
    @rule(delivery=st.sampled_from([1, 3]), sequence=st.sampled_from([0, 5]), lease=MOMENTS)
    def redrive(self, delivery: int, sequence: int, lease: int | None) -> None:
        """It ended and is begun anew."""
        assert self.record
        generation = self.record.state.generation + 1
        self.send(self.make(generation, "a", delivery, sequence, "running", None, lease, None, 24 * 60 * MINUTE_MS))

    @precondition(lambda self: self.ageable())
    @rule(lease=MOMENTS, due=MOMENTS, minutes=st.sampled_from([9, 11, 11]), sequence=st.sampled_from([-1, 0, 1]))
    def take_over(self, lease: int | None, due: int | None, minutes: int, sequence: int) -> None:
        """A run is heard of once more, then not for a while, then another message tries to own the job."""
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
    @rule(moved=st.sampled_from(["sequence", "delivery", "message_id"]))
    def move_unseen(self, moved: str) -> None:
        """What watchers do not see moves on alone, and counts all the same: a second time is once too often."""
        assert self.record
        generation = self.record.state.generation + 1
        waiting = self.make(generation, "a", 1, 5, "queued", None, None, None, 24 * 60 * MINUTE_MS)
        self.send(waiting)
        if moved == "message_id":
            self.age(11)
        there = replace(waiting, **{moved: {"sequence": 6, "delivery": 2, "message_id": "b"}[moved]})
        self.send(there)
        self.send(there)

    @rule(
        due=MOMENTS,
        found=st.sampled_from([None, "running", "running", "retrying"]),
        lease=st.sampled_from([-1 * MINUTE_MS, 5 * MINUTE_MS, 5 * MINUTE_MS]),
        times=st.sampled_from([1, 2]),
    )
    def cancel(self, due: int | None, found: JobStatus | None, lease: int, times: int) -> None:
        """Its user cancels it, perhaps twice, perhaps just when it has been leased or put back."""
        if self.record and found:
            state = self.record.state
            sequence, lease_until = state.sequence + 1, self.after(lease)
            self.send(replace(state, status=found, sequence=sequence, lease_until=lease_until))
        granted = Grant(
            job_id=self.job_id,
            kind="countdown",
            submitted_at=self.start,
            due_at=self.after(due),
            expires_at=Timestamp(self.start + 60 * MINUTE_MS),
        )
        for _ in range(times):
            before = Timestamp.now()
            answer = self.store.run(self.store.records.cancel(granted))
            new = cancel(self.record, granted, self.moment(before, answer))
            assert answer == new.snapshot
            self.move(new, self.look()[1])

    @precondition(lambda self: self.record is not None)
    @rule()
    def delete(self) -> None:
        """The store loses it; a clock that stands still meanwhile would be another fault."""
        assert self.record
        version = self.record.version
        self.store.run(wait_until(lambda: Timestamp.now() > version, poll_s=0.001))
        self.store.run(self.store.redis.delete(self.key))
        self.old = self.record = None

    @precondition(lambda self: self.ageable())
    @rule(minutes=st.sampled_from([9, 11, 11]))
    def age(self, minutes: int) -> None:
        """Nothing happens for a while: all of its times, and so its version, lie further back."""
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
        """A Valkey whose clock is a little behind takes over."""
        assert self.record
        self.record = replace(self.record, version=max(self.record.version, Timestamp.now()) + 50)
        self.rewrite()

    @rule()
    def watch(self) -> None:
        """A replica subscribes, or leaves."""
        self.store.run(self.subscribe() if self.pubsub is None else self.unsubscribe())

    # What must hold

    @invariant()
    def is_what_the_model_says(self) -> None:
        """What is read is what the model has, and lives as long as it must."""
        found, expiry = self.look()
        assert found == (self.record and self.record.snapshot)
        assert expiry == (self.record.expiry if self.record else -2)

    @invariant()
    def never_goes_back(self) -> None:
        """Versions rise, an ending stands, a run's sequence rises."""
        old, new = self.old, self.record
        if old is None or new is None or old is new:
            return
        if old.state.generation == new.state.generation and old.state.status in ENDED:
            assert old.snapshot == new.snapshot, "an ending was undone"
        if old.delivery_key == new.delivery_key and old.state is not new.state and new.state.status != "cancelled":
            assert new.state.sequence >= old.state.sequence, "a run went back"

    # How it is done

    def ageable(self) -> bool:
        """Tell whether there is a record that would live on."""
        return self.record is not None and self.record.expiry - self.start > 30 * MINUTE_MS

    def make(
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
        """Make a report of this job."""
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
            lease_until=self.after(lease),
            due_at=self.after(due),
            expires_at=Timestamp(self.start + expires),
        )

    def send(self, report: JobReport) -> None:
        """Pass a report through gate and model, and compare."""
        before = Timestamp.now()
        (verdict,) = self.store.run(self.store.records.apply_reports([report]))
        found, expiry = self.look()
        assert found
        now = self.moment(before, found)
        reason = rejection(self.record, report, now)
        new = self.record if self.record and reason else accept(self.record, report, now)
        watched = reason is None and self.pubsub is not None
        assert verdict == Verdict(self.job_id, reason is None, reason, new.cancel_requested, watched)
        assert found == new.snapshot
        self.move(new, expiry)

    def moment(self, before: Timestamp, snapshot: bytes) -> Timestamp:
        """Tell at what moment the gate acted: between before and now, exactly if it says so."""
        updated_at = decode(snapshot, JobSnapshot).updated_at
        return updated_at if updated_at and before <= updated_at <= Timestamp.now() else before

    def move(self, new: Record, expiry: int) -> None:
        """Let the model take a step, and see that watchers are told of it."""
        self.old, self.record = self.record, new
        if (
            new is not self.old and new.expiry <= expiry <= Timestamp.now() + RETENTION_MS
        ):  # unchanged: only the gate knows
            self.record = new = replace(new, expiry=expiry)
        if self.old is None or new.version != self.old.version:
            assert new.version > self.floor, "a version came again"
            self.floor = new.version
            if self.pubsub is not None:
                assert self.store.run(self.heard()) == new.snapshot

    def look(self) -> tuple[bytes | None, int]:
        """Return the snapshot and when its key expires."""
        (found,) = self.store.run(self.store.records.read([str(self.job_id)]))
        return found, self.store.run(self.store.redis.pexpiretime(self.key))

    def rewrite(self, **fields: int | bytes) -> None:
        """Write the model's version and expiry, and some fields, past the gate."""
        assert self.record
        self.old, self.floor = None, self.record.version
        given = {"version": self.record.version, **fields}
        pairs: list[Any] = [part for pair in given.items() for part in pair]
        self.store.run(self.store.redis.hset(self.key, items=pairs))
        self.store.run(self.store.redis.pexpireat(self.key, self.record.expiry))

    async def subscribe(self) -> None:
        """Subscribe, until Valkey has confirmed it."""
        self.pubsub = self.store.redis.pubsub()
        await self.pubsub.subscribe(self.key)
        await self.pubsub.get_message(timeout=5)

    async def unsubscribe(self) -> None:
        """Leave, until Valkey knows."""
        await self.pubsub.unsubscribe(self.key)
        await self.pubsub.get_message(timeout=5)
        await self.pubsub.aclose()
        self.pubsub = None

    async def heard(self) -> bytes:
        """Return what was published next."""
        message = await self.pubsub.get_message(timeout=5)
        assert message, "nothing was published"
        return bytes(message["data"])

    def teardown(self) -> None:
        """Leave nothing open."""
        if self.pubsub is not None:
            self.store.run(self.pubsub.aclose())


@pytest.fixture
def store(redis: Redis, stores: dict[str, str]) -> Iterator[Store]:
    """Reach the emptied Valkey."""
    store = Store(stores["REDIS_URL"])
    yield store
    store.close()


SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
THOROUGH = settings(
    max_examples=120, stateful_step_count=40, deadline=None, print_blob=True, suppress_health_check=SLOW
)
QUICK = settings(THOROUGH, phases=[Phase.generate], database=None, report_multiple_bugs=False, print_blob=False)


def play(store: Store, how: settings) -> None:
    """Run the machine; Hypothesis calls what it is typed to take as a class."""
    run_machine(lambda: Gate(store), settings=how)  # type: ignore[arg-type]


def test_gate_keeps_its_contract(store: Store) -> None:
    """Whatever comes in whatever order, verdicts, snapshots, versions and expiry are as the contract says."""
    play(store, THOROUGH)


@pytest.mark.parametrize(
    ("clause", "without"),
    [
        pytest.param("if compare('generation') < 0 then return 'superseded' end", "", id="older generation"),
        pytest.param("if compare('generation') > 0 then return nil end", "", id="newer generation"),
        pytest.param("if ENDED[old.status] then return 'finished' end", "", id="ended"),
        pytest.param("and 'duplicate' or nil", "and nil", id="another message"),
        pytest.param("now < last_sign_of_life + TAKEOVER_MS and 'duplicate' or nil", "'duplicate'", id="takeover"),
        pytest.param("if compare('delivery') < 0 then return 'superseded' end", "", id="older delivery"),
        pytest.param("if compare('delivery') > 0 then return nil end", "", id="newer delivery"),
        pytest.param("compare('sequence') <= 0 and 'stale' or nil", "nil", id="stale"),
    ],
)
def test_each_clause_of_the_fence_is_needed(
    store: Store, monkeypatch: pytest.MonkeyPatch, clause: str, without: str
) -> None:
    """A gate without one clause of its fence is told from the contract."""
    assert scripts.SCRIPT.count(clause.encode()) == 1
    text = scripts.SCRIPT.replace(clause.encode(), without.encode())
    monkeypatch.setattr(scripts, "SCRIPT", text)
    monkeypatch.setattr(store, "records", JobStore(store.servers))
    with pytest.raises(AssertionError):
        play(store, QUICK)
