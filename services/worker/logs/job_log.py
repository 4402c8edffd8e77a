"""The log of one delivery: what its handler writes, as the pieces that the notifier gets, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable

from headway.contracts import JobReport
from headway.details import MAX_APPEND_BYTES, LogAppend

from ...runtime.redaction import redact
from .buffer import LogBuffer, character_end


class JobLog:
    """The log of one delivery. A piece is repeated until the notifier has answered, and offsets make that harmless.

    All methods but `write` are for the thread of the event loop.

    Args:
        report: the first report of the delivery, which names it.
        watchers: whether everyone who watches the job may read the log.
        on_pending: called in any thread when there is something to send. Until `clear_pending` returns True, it is
            called again only when the delivery is over.
    """

    __slots__ = (
        "_buffer",
        "_ending_due",
        "_is_pending",
        "_on_pending",
        "_report",
        "_start",
        "_unanswered",
        "_was_written",
        "_watchers",
        "is_closed",
        "is_urgent",
    )

    def __init__(self, report: JobReport, watchers: bool, on_pending: Callable[[JobLog], None]) -> None:
        self._report = report
        self._watchers = watchers
        self._on_pending = on_pending
        self._buffer = LogBuffer(time.monotonic())
        self._start = 0
        self._unanswered: LogAppend | None = None
        self._is_pending = self._was_written = self._ending_due = False
        self.is_closed = self.is_urgent = False

    def write(self, text: str) -> None:
        """Add a text; thread-safe. It is dropped after the end of the delivery, when a thread or task may run on."""
        if self.is_closed or not text:
            return
        self._buffer.write(text)
        if not self._is_pending:
            self._is_pending = self._was_written = True
            self._on_pending(self)

    def close(self, *, has_ended: bool, is_released: bool = False) -> None:
        """Called when the delivery is over. If the job has ended, a last piece follows, which may be empty.

        The rest of the log of a job that a draining worker releases is urgent: the notifier refuses it once another
        worker has started the job.
        """
        self.is_closed, self.is_urgent = True, is_released
        self._ending_due = has_ended and self._was_written
        if self._has_more:
            self._is_pending = True
            self._on_pending(self)

    def next_piece(self, now: float) -> LogAppend | None:
        """Return the piece to send at a monotonic time: the one without an answer, or the next; None if none is due."""
        if self._unanswered is None:
            text = self._buffer.take(now, is_final=self.is_closed)
            if text or self._ending_due:
                self._ending_due = False
                self._unanswered = self._piece(text)
        return self._unanswered

    def on_answer(self) -> int:
        """Called when the notifier has accepted or refused the piece; return how many bytes it had."""
        size = 0 if self._unanswered is None else len(self._unanswered.text.encode())
        self._start += size
        self._unanswered = None
        return size

    def take_left_out_bytes(self) -> int:
        """Return how many bytes were left out since the last call."""
        return self._buffer.take_left_out_bytes()

    def clear_pending(self) -> bool:
        """Return whether nothing is left to send; then `on_pending` is called again when there is."""
        self._is_pending = False  # first: another thread may write during this call
        self._is_pending = self._has_more
        return not self._is_pending

    @property
    def _has_more(self) -> bool:
        return self._unanswered is not None or self._ending_due or not self._buffer.is_empty

    def _piece(self, text: str) -> LogAppend:
        report, data = self._report, redact(text).encode()
        return LogAppend(
            job_id=report.job_id,
            generation=report.generation,
            message_id=report.message_id,
            delivery=report.delivery,
            attempt=report.attempt,
            start=self._start,
            text=data[: character_end(data, MAX_APPEND_BYTES)].decode(),  # a redacted text may be longer
            watchers=self._watchers,
        )
