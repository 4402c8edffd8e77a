"""The reports of one delivery, without a notifier: what is due when, and what is told in it."""

from __future__ import annotations

import asyncio
import math
import time
from functools import partial
from uuid import uuid4

import pytest

from headway.contracts import JobReport, Json, Progress, Timestamp, Verdict
from services.worker.reporting.report_stream import LONG_AGO, ReportRejected, ReportStream

HEARTBEAT_S = 1.0
NOW = Timestamp.now()
FIRST = JobReport(
    job_id=uuid4(),
    kind="test",
    message_id="m-1",
    delivery=1,
    sequence=0,
    status="running",
    submitted_at=NOW,
    expires_at=NOW.after(3600),
)
WATCHED = Verdict(FIRST.job_id, accepted=True, watched=True)
UNWATCHED = Verdict(FIRST.job_id, accepted=True, watched=False)


class Opened:
    """A stream, and what it said to those around it."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.told = 0
        self.stream = ReportStream(FIRST, self.verdicts.append, self._tell)

    def _tell(self) -> None:
        self.told += 1

    def due(self) -> bool:
        """Tell whether a report must go now."""
        return self.stream.next_send_at(HEARTBEAT_S) == LONG_AGO


async def telling(stream: ReportStream, status: str = "running") -> asyncio.Task[Verdict]:
    """Tell something that matters, up to where its verdict is awaited."""
    task = asyncio.create_task(stream.report(status, lease_until=None))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    return task


async def running(verdict: Verdict = WATCHED) -> Opened:
    """Open a stream whose start was reported and answered."""
    opened = Opened()
    start = await telling(opened.stream)
    opened.stream.next_report()
    opened.stream.on_verdict(verdict)
    assert await start is verdict
    return opened


def test_nothing_is_due_before_the_start_is_told() -> None:
    """A delivery that is still being prepared reports nothing, not even by heartbeat."""
    assert Opened().stream.next_send_at(HEARTBEAT_S) == math.inf


async def test_the_start_is_due_at_once_and_every_verdict_is_heard() -> None:
    """What matters wakes the reporter, and its verdict goes to whoever asked and to the delivery."""
    opened = Opened()
    start = await telling(opened.stream)
    assert (opened.due(), opened.told) == (True, 1)
    report = opened.stream.next_report()
    assert (report.sequence, report.status) == (1, "running")
    assert not opened.due()
    opened.stream.on_verdict(UNWATCHED)
    assert await start is UNWATCHED
    assert opened.verdicts == [UNWATCHED]


async def test_the_latest_progress_wins() -> None:
    """What is shown before the next request replaces what was."""
    opened = await running()
    for current in range(5):
        opened.stream.progress_changed(partial(Progress, current, 5))
    assert opened.due()
    report = opened.stream.next_report()
    assert (report.progress, report.sequence) == (Progress(4, 5), 2)
    assert not opened.due()


async def test_unwatched_progress_waits_for_the_heartbeat() -> None:
    """While nobody looks, progress wakes nobody and is not due before the heartbeat is."""
    opened = await running(UNWATCHED)
    told = opened.told
    opened.stream.progress_changed(partial(Progress, 1, 5))
    assert opened.told == told
    assert 0 < opened.stream.next_send_at(HEARTBEAT_S) - time.monotonic() <= HEARTBEAT_S
    opened.stream.next_report()
    opened.stream.on_verdict(WATCHED)
    opened.stream.progress_changed(partial(Progress, 2, 5))
    assert opened.due()


async def test_an_ending_is_due_though_nobody_watches() -> None:
    """What matters never waits for a heartbeat."""
    opened = await running(UNWATCHED)
    ending = await telling(opened.stream, "succeeded")
    assert opened.due()
    assert opened.stream.next_report().status == "succeeded"
    assert opened.stream.next_send_at(HEARTBEAT_S) == math.inf
    ending.cancel()


async def test_what_was_not_sent_is_told_again_as_it_is_by_then() -> None:
    """After a failed request the report is due again, newer in its sequence and in what it says."""
    opened = await running()
    ending = await telling(opened.stream, "retrying")
    first = opened.stream.next_report()
    opened.stream.progress_changed(partial(Progress, 3, 5))
    opened.stream.requeue()
    assert opened.due()
    second = opened.stream.next_report()
    assert (first.sequence, second.sequence) == (2, 3)
    assert (second.status, second.progress) == ("retrying", Progress(3, 5))
    opened.stream.on_verdict(WATCHED)
    assert await ending is WATCHED


async def test_what_is_told_during_a_request_waits_for_its_own_verdict() -> None:
    """The verdict of an earlier report is none for an ending that it did not carry."""
    opened = await running()
    opened.stream.next_report()
    ending = await telling(opened.stream, "succeeded")
    opened.stream.on_verdict(WATCHED)
    await asyncio.sleep(0)
    assert not ending.done()
    assert opened.due()
    opened.stream.next_report()
    opened.stream.on_verdict(UNWATCHED)
    assert await ending is UNWATCHED


async def test_a_renewed_lease_is_told_while_the_job_runs() -> None:
    """The lease's end goes out with the next report, and no longer once the job has ended."""
    opened = await running()
    opened.stream.lease_renewed(NOW.after(60))
    assert opened.stream.next_report().lease_until == NOW.after(60)
    ending = await telling(opened.stream, "failed")
    opened.stream.lease_renewed(NOW.after(120))
    assert opened.stream.next_report().lease_until is None
    ending.cancel()


async def test_a_refused_start_is_an_error_for_whoever_waits() -> None:
    """A report that will never be taken is not sent again."""
    opened = Opened()
    start = await telling(opened.stream)
    opened.stream.next_report()
    opened.stream.on_rejected("the kind is too long")
    with pytest.raises(ReportRejected, match="the kind is too long"):
        await start
    assert not opened.due()


async def test_a_refused_ending_shrinks_to_a_bare_failure() -> None:
    """A watcher learns at least that the job is over, and only then it is given up."""
    opened = await running()
    opened.stream.progress_changed(partial(Progress, 1, 5))
    ending = asyncio.create_task(opened.stream.report("succeeded", result=Json(b'"x"'), lease_until=None))
    await asyncio.sleep(0)
    opened.stream.next_report()
    opened.stream.on_rejected("the result is too large")
    assert opened.due()
    bare = opened.stream.next_report()
    assert (bare.status, bytes(bare.result), bare.progress) == ("failed", b"null", None)
    assert bare.error is not None
    assert bare.error.type == "ReportRefused"
    opened.stream.on_rejected("still")
    with pytest.raises(ReportRejected, match="still"):
        await ending


async def test_whoever_stopped_waiting_is_passed_over() -> None:
    """A verdict for a delivery that was cancelled meanwhile is no error."""
    opened = Opened()
    start = await telling(opened.stream)
    opened.stream.next_report()
    start.cancel()
    await asyncio.sleep(0)
    opened.stream.on_verdict(WATCHED)
    assert opened.verdicts == [WATCHED]
