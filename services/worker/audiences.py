"""What a report shows of an attempt: its error to users, and its details to operators.

Users see errors that were written for them. The text of any other exception may contain whatever the job works with,
so it is a detail.
"""

from __future__ import annotations

from headway.contracts import (
    MAX_DETAILS_BYTES,
    MAX_ERROR_LENGTH,
    MAX_TRACEBACK_BYTES,
    JobError,
    ReportDetails,
    truncate,
)

from ..runtime.redaction import redact
from .outcomes import Failure

INTERNAL_ERROR = JobError("InternalError", "The job failed unexpectedly.")
CUT = "…\n"  # in place of the first lines of a traceback


def visible_error(failure: Failure | None, *, show_errors: bool) -> JobError | None:
    """Return the error that users see; with `show_errors` it is always the true one."""
    if failure is None:
        return None
    return _true_error(failure) if failure.is_public or show_errors else INTERNAL_ERROR


def report_details(failure: Failure | None, message: str | None) -> ReportDetails | None:
    """Return the details of a report, or None if it has none.

    They have at most `MAX_DETAILS_BYTES`. What does not fit is cut from the traceback first; then the message is left
    out.

    Args:
        failure: why the attempt failed.
        message: the queue message, with which the job can be run again.
    """
    if failure is None and message is None:
        return None
    error = None if failure is None else _true_error(failure)
    left_bytes = MAX_DETAILS_BYTES - (0 if error is None else len(error.message.encode()))
    if message is not None and (size := len(message.encode())) <= left_bytes:
        left_bytes -= size
    else:
        message = None
    traceback = None
    if failure is not None and failure.traceback is not None:
        traceback = _last_lines(redact(failure.traceback.text), min(left_bytes, MAX_TRACEBACK_BYTES))
    return ReportDetails(message=message, error=error, traceback=traceback)


def _true_error(failure: Failure) -> JobError:
    error = failure.error
    if failure.is_public:
        return error
    return JobError(error.type, truncate(redact(error.message), MAX_ERROR_LENGTH))


def _last_lines(text: str, limit_bytes: int) -> str | None:
    """Return as many of the last lines as the limit allows, or the end of the last one; None if there is no room."""
    data = text.encode()
    if len(data) <= limit_bytes:
        return text
    room = limit_bytes - len(CUT.encode())
    if room <= 0:
        return None
    end = data[-room:]
    return CUT + end[end.find(b"\n", 0, -1) + 1 :].decode(errors="ignore")
