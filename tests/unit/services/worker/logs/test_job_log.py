"""The log of a delivery as appends: their offsets, repetition, and the last one."""

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


def appended(start: int, text: str, *, more: bool = True) -> LogAppend:
    """Return an append of the log."""
    return LogAppend(
        job_id=REPORT.job_id,
        generation=2,
        message_id="m",
        delivery=3,
        attempt=2,
        start=start,
        text=text,
        watchers=True,
        more=more,
    )


def test_appends_follow_each_other(job_log: JobLog, pending: list[JobLog]) -> None:
    """Each begins where the one before has ended, in bytes; the log asks once until it is sent."""
    job_log.write("größe\n")
    job_log.write("more\n")
    assert pending == [job_log]
    assert job_log.next_append(NOW) == appended(0, "größe\nmore\n")
    assert job_log.on_answer() == 13
    assert job_log.clear_pending()
    job_log.write("last\n")
    assert pending == [job_log, job_log]
    assert job_log.next_append(NOW) == appended(13, "last\n")


def test_append_is_repeated_until_it_is_answered(job_log: JobLog) -> None:
    """What is logged meanwhile comes with the next one."""
    job_log.write("one\n")
    assert job_log.next_append(NOW) == appended(0, "one\n")
    job_log.write("two\n")
    assert job_log.next_append(NOW) == appended(0, "one\n")
    assert not job_log.clear_pending()
    job_log.on_answer()
    assert job_log.next_append(NOW) == appended(4, "two\n")


@pytest.mark.parametrize("has_ended", [True, False])
def test_delivery_ends_its_log(job_log: JobLog, *, has_ended: bool) -> None:
    """Its last append has the rest, or is empty: the notifier then knows that nothing is missing."""
    job_log.write("one\n")
    job_log.next_append(NOW)
    job_log.close(has_ended=has_ended)
    assert job_log.is_urgent != has_ended
    job_log.on_answer()
    assert job_log.next_append(NOW) == appended(4, "", more=False)
    job_log.on_answer()
    assert job_log.clear_pending()
    assert job_log.next_append(NOW) is None


def test_last_append_has_the_rest(job_log: JobLog) -> None:
    """An incomplete last line and all that the rate has held back are sent."""
    job_log.write("x" * 5000 + "\nincomplete")
    job_log.close(has_ended=True)
    assert job_log.next_append(0) == appended(0, "x" * 5000 + "\nincomplete", more=False)
    job_log.on_answer()
    assert job_log.clear_pending()


def test_job_that_logs_nothing_sends_nothing(job_log: JobLog, pending: list[JobLog]) -> None:
    """Not even its end."""
    job_log.write("")
    job_log.close(has_ended=True)
    assert pending == []
    assert job_log.next_append(NOW) is None


def test_dropped_log_is_counted(job_log: JobLog) -> None:
    """Both the append without an answer and what follows it; nothing is sent then."""
    job_log.write("größe\n")
    job_log.next_append(NOW)
    job_log.write("é\n")
    job_log.close(has_ended=True)
    assert job_log.drop() == len("größe\né\n".encode())
    assert job_log.clear_pending()
    assert job_log.next_append(NOW) is None


def test_late_writes_are_dropped(job_log: JobLog, pending: list[JobLog]) -> None:
    """A thread or task that a handler leaves behind adds nothing to the log of an ended delivery."""
    job_log.close(has_ended=True)
    job_log.write("late\n")
    assert pending == []


@pytest.mark.parametrize(
    ("begun", "rest", "expected"),
    [
        ("token eyJhbGciOiJIUzI1NiJ9", ".eyJzdWIiOiIxIn0.c2lnbmF0dXJl is new\n", "[hidden] is new\n"),
        ("Authorization: Bearer ", "abc-def\n", "[hidden]\n"),
        ("Authorization: Bearer abc", "def-1234 fine\n", " fine\n"),
        ("https://shop:pass", "word@db.example/\n", "[hidden]@db.example/\n"),
        ("10 %", ", 20 %", ", 20 %"),
        ("a line\n", "a line\n", "a line\n"),
    ],
)
def test_rest_of_a_secret_is_redacted(job_log: JobLog, begun: str, rest: str, expected: str) -> None:
    """A line that was printed slowly is sent in parts, of which only the first one may have a part of the secret."""
    job_log.write(begun)
    while job_log.next_append(NOW) is None:  # an incomplete line waits for one call
        pass
    job_log.on_answer()
    job_log.write(rest)
    while (found := job_log.next_append(NOW)) is None:
        pass
    assert found.text == expected


def test_secrets_are_redacted(job_log: JobLog) -> None:
    """A token is hidden although it was printed in two parts; what grows by that is cut to the limit of an append."""
    job_log.write("Authorization: Bearer abc")
    job_log.write("def-1234\nfine\n")
    found = job_log.next_append(NOW)
    assert found == appended(0, "Authorization: [hidden]\nfine\n")
    job_log.on_answer()
    job_log.write("sig=a&" * 5000)
    job_log.close(has_ended=True)
    last = job_log.next_append(NOW)
    assert last is not None
    assert last.text.startswith("sig=[hidden]&sig=[hidden]&")
    assert len(last.text) <= MAX_APPEND_BYTES
