"""The log of a delivery as pieces: their offsets, repetition, and the last one."""

from __future__ import annotations

from uuid import uuid4

import pytest

from headway.contracts import JobReport, Timestamp
from headway.details import MAX_APPEND_BYTES, LogAppend
from services.worker.logs.job_log import JobLog

NOW = 1e9  # later than the monotonic time
REPORT = JobReport(
    job_id=uuid4(),
    kind="k",
    generation=2,
    message_id="m",
    delivery=3,
    sequence=0,
    attempt=2,
    status="running",
    submitted_at=Timestamp.now(),
    expires_at=Timestamp.now(),
)


@pytest.fixture
def pending() -> list[JobLog]:
    """Return the logs that have asked to be sent."""
    return []


@pytest.fixture
def job_log(pending: list[JobLog]) -> JobLog:
    """Return an empty log."""
    return JobLog(REPORT, True, pending.append)


def piece(start: int, text: str) -> LogAppend:
    """Return a piece of the log."""
    return LogAppend(
        job_id=REPORT.job_id,
        generation=2,
        message_id="m",
        delivery=3,
        attempt=2,
        start=start,
        text=text,
        watchers=True,
    )


def test_pieces_follow_each_other(job_log: JobLog, pending: list[JobLog]) -> None:
    """Each begins where the one before has ended, in bytes; the log asks once until it is sent."""
    job_log.write("größe\n")
    job_log.write("more\n")
    assert pending == [job_log]
    assert job_log.next_piece(NOW) == piece(0, "größe\nmore\n")
    assert job_log.on_answer() == 13
    assert job_log.clear_pending()
    job_log.write("last\n")
    assert pending == [job_log, job_log]
    assert job_log.next_piece(NOW) == piece(13, "last\n")


def test_piece_is_repeated_until_it_is_answered(job_log: JobLog) -> None:
    """What is logged meanwhile comes with the next piece."""
    job_log.write("one\n")
    assert job_log.next_piece(NOW) == piece(0, "one\n")
    job_log.write("two\n")
    assert job_log.next_piece(NOW) == piece(0, "one\n")
    assert not job_log.clear_pending()
    job_log.on_answer()
    assert job_log.next_piece(NOW) == piece(4, "two\n")


def test_ended_job_sends_a_last_piece(job_log: JobLog) -> None:
    """It has the rest, or is empty: the notifier then knows that the log is complete."""
    job_log.write("one\n")
    job_log.next_piece(NOW)
    job_log.close(has_ended=True)
    job_log.on_answer()
    assert job_log.next_piece(NOW) == piece(4, "")
    job_log.on_answer()
    assert job_log.clear_pending()
    assert job_log.next_piece(NOW) is None


def test_last_piece_has_the_rest(job_log: JobLog) -> None:
    """An incomplete last line and all that the rate has held back are sent."""
    job_log.write("x" * 5000 + "\nincomplete")
    job_log.close(has_ended=True)
    assert job_log.next_piece(0) == piece(0, "x" * 5000 + "\nincomplete")
    job_log.on_answer()
    assert job_log.clear_pending()


def test_job_that_logs_nothing_sends_nothing(job_log: JobLog, pending: list[JobLog]) -> None:
    """Not even its end."""
    job_log.write("")
    job_log.close(has_ended=True)
    assert pending == []
    assert job_log.next_piece(NOW) is None


def test_released_job_sends_no_empty_piece(job_log: JobLog) -> None:
    """Its log goes on with the next delivery."""
    job_log.write("one\n")
    job_log.next_piece(NOW)
    job_log.on_answer()
    job_log.close(has_ended=False)
    assert job_log.next_piece(NOW) is None


def test_late_writes_are_dropped(job_log: JobLog, pending: list[JobLog]) -> None:
    """A thread or task that a handler leaves behind adds nothing to the log of an ended delivery."""
    job_log.close(has_ended=True)
    job_log.write("late\n")
    assert pending == []


def test_secrets_are_redacted(job_log: JobLog) -> None:
    """A token is hidden although it was printed in two parts; what grows by that is cut to the limit of a piece."""
    job_log.write("Authorization: Bearer abc")
    job_log.write("def-1234\nfine\n")
    found = job_log.next_piece(NOW)
    assert found == piece(0, "Authorization: [hidden]\nfine\n")
    job_log.on_answer()
    job_log.write("sig=a&" * 5000)
    job_log.close(has_ended=True)
    last = job_log.next_piece(NOW)
    assert last is not None
    assert last.text.startswith("sig=[hidden]&sig=[hidden]&")
    assert len(last.text) <= MAX_APPEND_BYTES
