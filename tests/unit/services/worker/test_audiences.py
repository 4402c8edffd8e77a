"""The two audiences of an attempt: what users see of its error, and what its details contain."""

from __future__ import annotations

from typing import Any

import pytest

from headway.contracts import MAX_DETAILS_BYTES, MAX_TRACEBACK_BYTES, JobError, ReportDetails
from services.runtime.tracebacks import Traceback
from services.worker import audiences
from services.worker.audiences import INTERNAL_ERROR, report_details, visible_error
from services.worker.outcomes import Failure, public_failure

PUBLIC = public_failure("Fail", "There is no album 'moon'.")
BUG = Failure(JobError("KeyError", "'sw0rd-fish'"), Traceback([], "Traceback:\nKeyError: 'sw0rd-fish'\n"))


@pytest.fixture(autouse=True)
def _secret_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide one word."""
    monkeypatch.setattr(audiences, "redact", lambda text: text.replace("sw0rd-fish", "[hidden]"))


@pytest.mark.parametrize("show_errors", [False, True])
def test_users_see_errors_that_were_written_for_them(show_errors: bool) -> None:
    """A public error is shown as it is."""
    assert visible_error(PUBLIC, show_errors=show_errors) == JobError("Fail", "There is no album 'moon'.")
    assert visible_error(None, show_errors=show_errors) is None


def test_users_see_other_errors_only_with_show_errors() -> None:
    """Neither the type nor the text of an exception is shown; with SHOW_ERRORS, both are, without secrets."""
    assert visible_error(BUG, show_errors=False) == INTERNAL_ERROR
    assert visible_error(BUG, show_errors=True) == JobError("KeyError", "'[hidden]'")


def test_details_have_the_true_error_without_secrets() -> None:
    """Secrets are hidden in the error's text and in the traceback."""
    assert report_details(BUG, None) == ReportDetails(
        error=JobError("KeyError", "'[hidden]'"), traceback="Traceback:\nKeyError: '[hidden]'\n"
    )


def test_nothing_to_show_is_no_details() -> None:
    """A job that succeeds sends no details, unless its message is kept."""
    assert report_details(None, None) is None
    assert report_details(None, "{}") == ReportDetails(message="{}")
    assert report_details(PUBLIC, "{}") == ReportDetails(message="{}", error=PUBLIC.error)


def details(traceback: str, message: str = "{}", error: str = "e") -> Any:
    """Return the details of a failure with these texts."""
    return report_details(Failure(JobError("E", error), Traceback([], traceback)), message)


def test_long_traceback_keeps_its_last_lines() -> None:
    """The first lines are replaced by an ellipsis; the limit counts bytes."""
    lines = "".join(f"line {number} é\n" for number in range(2000))
    traceback = details(lines).traceback
    assert traceback.startswith("…\nline ")
    assert lines.endswith(traceback.removeprefix("…\n"))
    assert MAX_TRACEBACK_BYTES - 20 < len(traceback.encode()) <= MAX_TRACEBACK_BYTES


@pytest.mark.parametrize("end", ["", "\n"])
def test_end_of_a_long_last_line_is_kept(end: str) -> None:
    """A line that is too long is cut between two characters."""
    traceback = details("first\n" + 9000 * "é" + end).traceback
    assert traceback.startswith("…\né")
    assert traceback.endswith("é" + end)
    assert MAX_TRACEBACK_BYTES - 2 <= len(traceback.encode()) <= MAX_TRACEBACK_BYTES


def test_traceback_is_cut_before_the_message_is_left_out() -> None:
    """The message is what the job is run again with; details never exceed their limit."""
    traceback = "Traceback:\n" + 1000 * "é\n"
    fits = details(traceback, "x" * (MAX_DETAILS_BYTES - 101))
    assert len(fits.message) == MAX_DETAILS_BYTES - 101
    assert 95 < len(fits.traceback.encode()) <= 100
    full = details(traceback, "x" * (MAX_DETAILS_BYTES - 1))
    assert (len(full.message), full.error.message, full.traceback) == (MAX_DETAILS_BYTES - 1, "e", None)
    left_out = details(traceback, "x" * MAX_DETAILS_BYTES)
    assert (left_out.message, left_out.traceback) == (None, traceback)
