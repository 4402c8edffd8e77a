"""The report stream of a delivery, without a notifier: when a report is due, and what it contains."""

from __future__ import annotations

import asyncio
import math
import time
from functools import partial

import pytest

from headway.contracts import (
    MAX_DETAILS_BYTES,
    JobReport,
    Json,
    Progress,
    ReportDetails,
    StepTimes,
    Timestamp,
    Verdict,
    encode,
)
from services.worker.reporting import report_stream
from services.worker.reporting.report_stream import LONG_AGO, ReportRejected, ReportStream
from tests.reports import first_report
from tests.unit.services.runtime.unreadable_errors import unreadable

HEARTBEAT_S = 1.0
NOW = Timestamp.now()
FIRST = first_report()
WATCHED = Verdict(FIRST.job_id, accepted=True, watched=True)
UNWATCHED = Verdict(FIRST.job_id, accepted=True, watched=False)


class StreamRecorder:
    """A stream that records its verdicts and counts its changes."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.change_count = 0
        self.stream = ReportStream(FIRST, self.verdicts.append, self._on_change)

    def _on_change(self) -> None:
        self.change_count += 1

    def is_due(self) -> bool:
        """Return whether a report is due at once."""
        return self.stream.next_send_at(HEARTBEAT_S) == LONG_AGO


async def start_report(stream: ReportStream, status: str = "running") -> asyncio.Task[Verdict]:
    """Report a status and return the task that waits for the verdict."""
    task = asyncio.create_task(stream.report(status, lease_until=None))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    return task


async def running_stream(verdict: Verdict = WATCHED) -> StreamRecorder:
    """Open a stream and report the start, which gets this verdict."""
    recorder = StreamRecorder()
    start = await start_report(recorder.stream)
    recorder.stream.next_report()
    recorder.stream.on_verdict(verdict)
    assert await start is verdict
    return recorder


def test_no_report_is_due_before_the_start() -> None:
    """A delivery that has not reported its start sends no heartbeat."""
    assert StreamRecorder().stream.next_send_at(HEARTBEAT_S) == math.inf


async def test_start_is_due_at_once() -> None:
    """The reporter is notified; the caller and the delivery get the verdict."""
    recorder = StreamRecorder()
    start = await start_report(recorder.stream)
    assert (recorder.is_due(), recorder.change_count) == (True, 1)
    report = recorder.stream.next_report()
    assert (report.sequence, report.status) == (1, "running")
    assert not recorder.is_due()
    recorder.stream.on_verdict(UNWATCHED)
    assert await start is UNWATCHED
    assert recorder.verdicts == [UNWATCHED]


async def test_progress_is_coalesced() -> None:
    """A report contains only the latest progress."""
    recorder = await running_stream()
    for current in range(5):
        recorder.stream.progress_changed(partial(Progress, current, 5))
    assert recorder.is_due()
    report = recorder.stream.next_report()
    assert (report.progress, report.sequence) == (Progress(4, 5), 2)
    assert not recorder.is_due()


async def test_unwatched_progress_waits_for_the_heartbeat() -> None:
    """Progress of an unwatched job does not notify the reporter and is sent with the next heartbeat."""
    recorder = await running_stream(UNWATCHED)
    change_count = recorder.change_count
    recorder.stream.progress_changed(partial(Progress, 1, 5))
    assert recorder.change_count == change_count
    assert 0 < recorder.stream.next_send_at(HEARTBEAT_S) - time.monotonic() <= HEARTBEAT_S
    recorder.stream.next_report()
    recorder.stream.on_verdict(WATCHED)
    recorder.stream.progress_changed(partial(Progress, 2, 5))
    assert recorder.is_due()


async def test_outcome_of_an_unwatched_job_is_due_at_once() -> None:
    """A change of status does not wait for the heartbeat."""
    recorder = await running_stream(UNWATCHED)
    outcome = await start_report(recorder.stream, "succeeded")
    assert recorder.is_due()
    assert recorder.stream.next_report().status == "succeeded"
    assert recorder.stream.next_send_at(HEARTBEAT_S) == math.inf
    outcome.cancel()


async def test_report_is_due_again_after_a_failed_request() -> None:
    """The repeated report has a greater sequence and the latest progress."""
    recorder = await running_stream()
    outcome = await start_report(recorder.stream, "retrying")
    first = recorder.stream.next_report()
    recorder.stream.progress_changed(partial(Progress, 3, 5))
    recorder.stream.requeue()
    assert recorder.is_due()
    second = recorder.stream.next_report()
    assert (first.sequence, second.sequence) == (2, 3)
    assert (second.status, second.progress) == ("retrying", Progress(3, 5))
    recorder.stream.on_verdict(WATCHED)
    assert await outcome is WATCHED


async def test_report_during_a_request_waits_for_its_own_verdict() -> None:
    """The verdict on the report in flight is not the verdict on a later change of status."""
    recorder = await running_stream()
    recorder.stream.next_report()
    outcome = await start_report(recorder.stream, "succeeded")
    recorder.stream.on_verdict(WATCHED)
    await asyncio.sleep(0)
    assert not outcome.done()
    assert recorder.is_due()
    recorder.stream.next_report()
    recorder.stream.on_verdict(UNWATCHED)
    assert await outcome is UNWATCHED


async def test_renewed_lease_is_reported_while_the_job_runs() -> None:
    """The next report contains the new end of the lease; after the outcome, renewals are ignored."""
    recorder = await running_stream()
    recorder.stream.lease_renewed(time.monotonic() + 60)
    assert recorder.stream.next_report().lease_until is not None
    outcome = await start_report(recorder.stream, "failed")
    recorder.stream.lease_renewed(time.monotonic() + 120)
    assert recorder.stream.next_report().lease_until is None
    outcome.cancel()


@pytest.mark.parametrize(("passed", "is_due"), [(0.5, False), (0.59, False), (0.61, True), (0.9, True)])
async def test_renewed_lease_waits_for_the_heartbeat(passed: float, is_due: bool) -> None:
    """A renewal after half of the lease leaves time for a heartbeat; later ones may not, and are reported at once."""
    recorder = StreamRecorder()
    now = time.monotonic()
    start = asyncio.create_task(recorder.stream.report("running", lease_until=now + 60 * (1 - passed)))
    await asyncio.sleep(0)
    recorder.stream.next_report()
    recorder.stream.on_verdict(WATCHED)
    await start
    change_count = recorder.change_count
    recorder.stream.lease_renewed(now + 60)
    assert recorder.is_due() is is_due
    assert recorder.change_count == change_count + is_due
    recorder.stream.next_report()
    assert not recorder.is_due()


async def test_requested_report_is_due_at_once() -> None:
    """It is due again after a request that failed, and after one that was in flight when it was requested."""
    recorder = await running_stream(UNWATCHED)
    change_count = recorder.change_count
    recorder.stream.report_now()
    assert (recorder.is_due(), recorder.change_count) == (True, change_count + 1)
    recorder.stream.next_report()
    recorder.stream.requeue()
    assert recorder.is_due()
    recorder.stream.next_report()
    recorder.stream.report_now()
    recorder.stream.on_verdict(UNWATCHED)
    assert recorder.is_due()


async def test_no_report_is_requested_before_the_start_or_after_the_end() -> None:
    """The next report of such a job is due anyway, or there is none."""
    recorder = StreamRecorder()
    recorder.stream.report_now()
    assert recorder.stream.next_send_at(HEARTBEAT_S) == math.inf
    recorder = await running_stream()
    outcome = await start_report(recorder.stream, "succeeded")
    recorder.stream.next_report()
    recorder.stream.report_now()
    assert recorder.stream.next_send_at(HEARTBEAT_S) == math.inf
    outcome.cancel()


async def test_times_come_from_one_reading_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the clock of the machine jumps, the distances of lease and due time from `sent_at` stay right."""
    readings = iter((NOW, NOW.after(-3600), NOW.after(3600), NOW.after(86_400)))
    monkeypatch.setattr(Timestamp, "now", lambda: next(readings))
    recorder = await running_stream()
    recorder.stream.lease_renewed(time.monotonic() + 60)
    renewed = recorder.stream.next_report()
    assert renewed.sent_at == NOW.after(-3600)
    assert renewed.lease_until is not None
    assert 59_000 < renewed.lease_until - renewed.sent_at <= 60_000
    retry = asyncio.create_task(recorder.stream.report("retrying", after_s=7))
    await asyncio.sleep(0)
    for sent_at in (NOW.after(3600), NOW.after(86_400)):  # the due time counts from the report that gets through
        report = recorder.stream.next_report()
        assert (report.sent_at, report.due_at, report.lease_until) == (sent_at, sent_at.after(7), None)
        recorder.stream.requeue()
    retry.cancel()


async def test_rejected_start_raises() -> None:
    """The caller gets ReportRejected, and the report is not sent again."""
    recorder = StreamRecorder()
    start = await start_report(recorder.stream)
    recorder.stream.next_report()
    recorder.stream.on_rejected("the kind is too long")
    with pytest.raises(ReportRejected, match="the kind is too long"):
        await start
    assert not recorder.is_due()


async def test_rejected_outcome_is_reduced_to_a_failure() -> None:
    """The outcome is sent once more, without result and progress; a second rejection raises ReportRejected."""
    recorder = await running_stream()
    recorder.stream.progress_changed(partial(Progress, 1, 5))
    recorder.stream.collect_steps = lambda: (step("a"),)
    outcome = asyncio.create_task(recorder.stream.report("succeeded", result=Json(b'"x"'), details=ReportDetails()))
    await asyncio.sleep(0)
    recorder.stream.next_report()
    recorder.stream.on_rejected("the result is too large")
    assert recorder.is_due()
    reduced = recorder.stream.next_report()
    assert (reduced.status, bytes(reduced.result), reduced.progress) == ("failed", b"null", None)
    assert reduced.details is None
    assert reduced.error is not None
    assert reduced.error.type == "ReportRefused"
    recorder.stream.on_rejected("rejected again")
    with pytest.raises(ReportRejected, match="rejected again"):
        await outcome


async def test_verdict_for_a_cancelled_caller_is_ignored() -> None:
    """A verdict may arrive after the delivery that waits for it was cancelled."""
    recorder = StreamRecorder()
    start = await start_report(recorder.stream)
    recorder.stream.next_report()
    start.cancel()
    await asyncio.sleep(0)
    recorder.stream.on_verdict(WATCHED)
    assert recorder.verdicts == [WATCHED]


def step(name: str, ended_at: Timestamp | None = None) -> StepTimes:
    """Return a step that began now."""
    return StepTimes(name, NOW, ended_at)


def steps_of(report: JobReport) -> list[str] | None:
    """Return the names of the steps in a report, None if it has no details."""
    return None if report.details is None else [step.name for step in report.details.steps]


async def test_steps_are_reported_once_per_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report has the steps if they have changed, at most once per second, and no report is due because of them."""
    recorder = await running_stream()
    steps = [step("a")]
    recorder.stream.collect_steps = lambda: tuple(steps)
    assert not recorder.is_due()
    assert steps_of(recorder.stream.next_report()) == ["a"]
    steps.append(step("b"))
    assert steps_of(recorder.stream.next_report()) is None
    monkeypatch.setattr(report_stream, "STEPS_INTERVAL_S", 0.0)
    assert [steps_of(recorder.stream.next_report()) for _ in range(2)] == [["a", "b"], None]


async def test_steps_are_reported_again_after_a_failed_request() -> None:
    """The notifier may not have got them."""
    recorder = await running_stream()
    recorder.stream.collect_steps = lambda: (step("a"),)
    recorder.stream.next_report()
    recorder.stream.requeue()
    assert steps_of(recorder.stream.next_report()) == ["a"]


@pytest.mark.parametrize("status", ["succeeded", "queued"])
async def test_report_that_ends_an_attempt_has_all_steps(status: str) -> None:
    """It does not wait a second, and each resend has the steps, too."""
    recorder = await running_stream()
    recorder.stream.collect_steps = lambda: (step("a", NOW),)
    recorder.stream.next_report()
    outcome = await start_report(recorder.stream, status)
    assert [steps_of(recorder.stream.next_report()) for _ in range(2)] == [["a"], ["a"]]
    outcome.cancel()


async def test_steps_fit_beside_the_other_details() -> None:
    """The oldest steps are left out, if the message needs their room."""
    recorder = await running_stream()
    steps = tuple(step(f"{number} {'é' * 80}") for number in range(100))
    recorder.stream.collect_steps = lambda: steps
    message = "x" * (MAX_DETAILS_BYTES - 10_000)
    outcome = asyncio.create_task(recorder.stream.report("failed", details=ReportDetails(message=message)))
    await asyncio.sleep(0)
    details = recorder.stream.next_report().details
    assert details is not None
    assert details.message == message
    assert 0 < len(details.steps) < 100
    assert details.steps[-1] == steps[-1]
    assert len(encode(details)) <= MAX_DETAILS_BYTES + 20
    outcome.cancel()


async def test_failing_progress_costs_only_the_display(capsys: pytest.CaptureFixture[str]) -> None:
    """Reports go on without it, and with it once it can be collected; the error is logged once."""
    recorder = await running_stream()
    working = Progress(1, 2)
    recorder.stream.progress_changed(lambda: working)
    assert recorder.stream.next_report().progress == working

    def fail() -> Progress:
        raise ValueError

    for _ in range(3):
        recorder.stream.progress_changed(fail)
        report = recorder.stream.next_report()
        assert (report.status, report.progress) == ("running", working)
    recorder.stream.progress_changed(lambda: Progress(2, 2))
    assert recorder.stream.next_report().progress == Progress(2, 2)
    output = capsys.readouterr().out
    assert output.count("progress_failed") == 1
    assert "error=ValueError" in output


@pytest.mark.parametrize("error_type", ["RaisingName", "NumberAsName", "RaisingTraceback"], ids=str.lower)
async def test_failing_progress_may_raise_an_exception_that_cannot_be_read(
    error_type: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report is sent although an attribute of the author's exception raises or lies; the log has its type."""
    recorder = await running_stream()

    def fail() -> Progress:
        raise unreadable(error_type)

    recorder.stream.progress_changed(fail)
    assert recorder.stream.next_report().status == "running"
    assert f"error={error_type}" in capsys.readouterr().out
