"""A model of the record script, written from the contract alone: the fence, merging, cancellation and expiry."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from headway.contracts import (
    DEFAULT_ATTEMPTS,
    ENDED,
    EarlierAttempt,
    JobReport,
    JobSnapshot,
    RejectionReason,
    SubmittedJob,
    Timestamp,
    encode_snapshot,
    to_progress_snapshot,
)
from headway.labels import Labels
from headway.tokens import Grant

TAKEOVER_MS = 10 * 60_000
SAME_TIME_MS = 2_000
RETENTION_MS = 60 * 60_000
MAX_EARLIER_ATTEMPTS = 5


class Record(Struct, frozen=True, kw_only=True):
    """A job's last accepted report and the fields that the record script adds.

    A job without a delivery has a report with an empty `message_id`.
    """

    state: JobReport
    labels: Labels | None = None
    advanced_at: Timestamp | None = None
    earlier_attempts: tuple[EarlierAttempt, ...] = ()
    redriven_at: Timestamp | None = None
    cancel_requested: bool = False
    version: int = 0
    started_at: Timestamp | None = None
    updated_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    expiry: int = 0

    @property
    def delivery_key(self) -> tuple[int, str, int]:
        """The delivery that owns the record; within a delivery, sequences only rise."""
        return delivery_key(self.state)

    @property
    def snapshot(self) -> bytes:
        """The snapshot that watchers get."""
        state = self.state
        return encode_snapshot(
            JobSnapshot(
                id=state.job_id,
                kind=state.kind,
                status=state.status,
                version=self.version,
                generation=state.generation,
                attempt=state.attempt,
                max_attempts=state.max_attempts,
                progress=to_progress_snapshot(state.progress),
                result=state.result,
                error=state.error,
                cancel_requested=self.cancel_requested,
                submitted_at=state.submitted_at,
                started_at=self.started_at,
                updated_at=self.updated_at,
                finished_at=self.finished_at,
                due_at=state.due_at,
                lease_until=state.lease_until,
                expires_at=state.expires_at,
                name=self.labels.name if self.labels else None,
                advanced_at=self.advanced_at,
                earlier_attempts=self.earlier_attempts,
                redriven_at=self.redriven_at,
            )
        )


def delivery_key(report: JobReport) -> tuple[int, str, int]:
    """Return the generation, message and delivery of a report."""
    return report.generation, report.message_id, report.delivery


def rejection(old: Record | None, report: JobReport, now: Timestamp) -> RejectionReason | None:
    """Return the reason why the fence rejects a report, None if it accepts it."""
    if old is None or report.generation > old.state.generation:
        return None
    if report.generation < old.state.generation:
        return "finished"
    if old.state.status in ENDED:
        return "finished"
    if not old.state.message_id:
        return None
    if report.message_id != old.state.message_id:
        last_sign_of_life = max(old.version, old.state.lease_until or 0, old.state.due_at or 0)
        return "duplicate" if now - last_sign_of_life < TAKEOVER_MS else None
    if report.delivery != old.state.delivery:
        return "superseded" if report.delivery < old.state.delivery else None
    return None if report.sequence > old.state.sequence else "stale"


def accept(old: Record | None, report: JobReport, now: Timestamp) -> Record:
    """Return the record after an accepted report; if nothing changes, the version does not either."""
    report = in_redis_time(old, report, now)
    if old is None:
        record = Record(state=report, labels=report.labels, started_at=_started_at(None, report, now))
        return _change(replace(record, advanced_at=now if _has_risen(None, report) else None), None, now)
    same_generation = report.generation == old.state.generation
    same_attempt = same_generation and report.attempt == old.state.attempt
    advanced_at = old.advanced_at if same_attempt else None
    new = replace(
        old,
        state=replace(report, submitted_at=old.state.submitted_at),
        labels=old.labels or report.labels,
        advanced_at=now if _has_risen(old.state if same_attempt else None, report) else advanced_at,
        redriven_at=old.redriven_at if same_generation else None,
        cancel_requested=old.cancel_requested and same_generation,
        started_at=_started_at(old.started_at if delivery_key(report) == old.delivery_key else None, report, now),
    )
    if not same_generation or report.attempt > old.state.attempt:
        new = replace(new, earlier_attempts=_with_attempt_of(old, now))
    if (new.snapshot, new.labels, new.state.worker) == (old.snapshot, old.labels, old.state.worker):
        return new if new.state.expires_at > now else _extend_expiry(new, now)
    return _change(new, old, now)


def reject(old: Record, report: JobReport, now: Timestamp) -> Record:
    """Return the record after a rejected report, which only fills in the labels of a job without a delivery."""
    if old.state.message_id:
        return old
    return _fill_in_labels(old, report.generation, report.labels, now)


def submit(old: Record | None, job: SubmittedJob, now: Timestamp) -> Record:
    """Return the record after the submission of a job."""
    if old is not None and job.generation <= old.state.generation:
        return _fill_in_labels(old, job.generation, job.labels, now)
    state = JobReport(
        job_id=job.id,
        kind=job.kind,
        generation=job.generation,
        message_id="",
        delivery=0,
        sequence=0,
        max_attempts=job.max_attempts,
        status="queued",
        submitted_at=old.state.submitted_at if old else job.submitted_at,
        expires_at=job.expires_at,
        due_at=job.due_at if job.due_at and job.due_at > now else None,
    )
    earlier_attempts = _with_attempt_of(old, now) if old else ()
    labels = (old and old.labels) or job.labels
    redriven_at = now if old else None
    record = Record(state=state, labels=labels, earlier_attempts=earlier_attempts, redriven_at=redriven_at)
    return _change(record, old, now)


def is_transition(old: Record | None, new: Record) -> bool:
    """Return whether a change must reach the index: of the delivery, attempt, status or labels."""
    if old is None or new.delivery_key != old.delivery_key:
        return True
    return (new.state.status, new.state.attempt, new.labels) != (old.state.status, old.state.attempt, old.labels)


def _has_risen(old: JobReport | None, new: JobReport) -> bool:
    """Return whether the progress rose within an attempt."""
    progress, earlier = new.progress, old.progress if old else None
    if progress is None or earlier is None:
        return progress is not None and progress.current > 0
    rose = progress.percent is not None and earlier.percent is not None and progress.percent > earlier.percent
    return rose or progress.current > earlier.current


def _with_attempt_of(old: Record, now: Timestamp) -> tuple[EarlierAttempt, ...]:
    """Return the earlier attempts after the end of a record's attempt, if that has started."""
    state = old.state
    if state.status == "queued" and old.started_at is None:
        return old.earlier_attempts
    ended_at = old.finished_at or old.updated_at or now
    if state.status == "running" and state.lease_until:
        ended_at = min(now, state.lease_until)
    attempt = EarlierAttempt(
        attempt=state.attempt,
        started_at=old.started_at,
        ended_at=ended_at,
        outcome={"retrying": "failed", "queued": "released", "running": "lost"}.get(state.status, state.status),
        error=state.error.type if state.error else None,
    )
    return (*old.earlier_attempts, attempt)[-MAX_EARLIER_ATTEMPTS:]


def _fill_in_labels(old: Record, generation: int, labels: Labels | None, now: Timestamp) -> Record:
    """Return the record with labels if it has none."""
    if old.labels or labels is None or generation != old.state.generation:
        return old
    return replace(_change(replace(old, labels=labels), old, now), finished_at=old.finished_at)


def in_redis_time(old: Record | None, report: JobReport, now: Timestamp) -> JobReport:
    """Return a report with its lease and due time by the clock of Redis, by which `now` is the time of the report."""
    lease_until, due_at = (None, None) if old is None else (old.state.lease_until, old.state.due_at)
    return replace(
        report,
        lease_until=_in_redis_time(lease_until, report.lease_until, report.sent_at, now),
        due_at=_in_redis_time(due_at, report.due_at, report.sent_at, now),
    )


def _in_redis_time(
    stored: Timestamp | None, time: Timestamp | None, sent_at: Timestamp | None, now: Timestamp
) -> Timestamp | None:
    if time is None:
        return None
    translated = Timestamp(now + time - sent_at) if sent_at is not None else time
    tolerance_ms = min(SAME_TIME_MS, abs(translated - now) / 4)
    return stored if stored is not None and abs(translated - stored) <= tolerance_ms else translated


def cancel(old: Record | None, grant: Grant, now: Timestamp) -> Record:
    """Return the record after a cancellation."""
    if old is None:
        return _change(Record(state=_cancelled(_initial_state(grant)), cancel_requested=True), None, now)
    if old.state.status in ENDED:
        return old
    if old.state.status == "running" and (old.state.lease_until or 0) > now:
        return old if old.cancel_requested else _change(replace(old, cancel_requested=True), old, now)
    return _change(replace(old, state=_cancelled(old.state), cancel_requested=True), old, now)


def _started_at(started_at: Timestamp | None, report: JobReport, now: Timestamp) -> Timestamp | None:
    return now if started_at is None and report.status == "running" else started_at


def _change(new: Record, old: Record | None, now: Timestamp) -> Record:
    version = now if old is None else max(now, old.version + 1)
    finished_at = now if new.state.status in ENDED else None
    return _extend_expiry(replace(new, version=int(version), updated_at=now, finished_at=finished_at), now)


def _extend_expiry(record: Record, now: Timestamp) -> Record:
    return replace(record, expiry=max(record.state.expires_at, now) + RETENTION_MS)


def _cancelled(state: JobReport) -> JobReport:
    return replace(state, status="cancelled", due_at=None, lease_until=None)


def _initial_state(grant: Grant) -> JobReport:
    return JobReport(
        job_id=grant.job_id,
        kind=grant.kind,
        message_id="",
        delivery=0,
        sequence=0,
        max_attempts=DEFAULT_ATTEMPTS,
        status="queued",
        submitted_at=grant.submitted_at,
        expires_at=grant.expires_at,
    )
