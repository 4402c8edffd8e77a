"""The log of one delivery: what its handler writes, as the appends that the notifier gets, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from os.path import commonprefix

from msgspec.structs import replace

from headway.contracts import JobReport
from headway.details import MAX_APPEND_BYTES, LogAppend

from ...runtime.redaction import redact
from .buffer import LogBuffer, character_end

MAX_BEGUN_LINE = 4096  # characters of a line that was sent in part, which may be the beginning of a secret


class JobLog:
    """The log of one delivery. An append is repeated until the notifier has answered, and offsets make that harmless.

    All methods but `write` are for the thread of the event loop.

    Args:
        report: the first report of the delivery, which names it.
        watchers: whether everyone who watches the job may read the log.
        on_pending: called in any thread when there is something to send. Until `clear_pending` returns True, it is
            called again only when the delivery is over.
    """

    __slots__ = (
        "_buffer",
        "_is_pending",
        "_last_is_due",
        "_line",
        "_next",
        "_on_pending",
        "_unanswered",
        "_was_written",
        "is_closed",
        "is_urgent",
    )

    def __init__(self, report: JobReport, watchers: bool, on_pending: Callable[[JobLog], None]) -> None:
        self._next = LogAppend(
            job_id=report.job_id,
            generation=report.generation,
            message_id=report.message_id,
            delivery=report.delivery,
            attempt=report.attempt,
            start=0,
            text="",  # follows when it is sent
            watchers=watchers,
        )
        self._on_pending = on_pending
        self._buffer = LogBuffer(time.monotonic())
        self._line = ""  # the part of an incomplete line that was sent, before its secrets were removed
        self._unanswered: LogAppend | None = None
        self._is_pending = self._was_written = self._last_is_due = False
        self.is_closed = self.is_urgent = False

    def write(self, text: str) -> None:
        """Add a text; thread-safe. It is dropped after the end of the delivery, when a thread or task may run on."""
        if self.is_closed or not text:
            return
        self._buffer.write(text)
        if not self._is_pending:
            self._is_pending = self._was_written = True
            self._on_pending(self)

    def close(self, *, has_ended: bool) -> None:
        """Called when the delivery is over. If it has logged anything, a last append follows, which may be empty.

        It is urgent unless the job has ended: the notifier refuses it once the next delivery has started.
        """
        self.is_closed, self.is_urgent = True, not has_ended
        self._last_is_due = self._was_written
        if self._has_more:
            self._is_pending = True
            self._on_pending(self)

    def next_append(self, now: float) -> LogAppend | None:
        """Return the append to send at a monotonic time, the one without an answer or the next; None if none is due."""
        if self._unanswered is None:
            text = self._buffer.take(now, is_final=self.is_closed)
            if text or self._last_is_due:
                self._last_is_due = False
                data = self._redacted(text).encode()
                text = data[: character_end(data, MAX_APPEND_BYTES)].decode()  # a redacted text may be longer
                self._unanswered = replace(self._next, text=text, more=not self.is_closed)
        return self._unanswered

    def _redacted(self, text: str) -> str:
        """Return a text without secrets, and without the rest of one that begins in the part of the line before it."""
        begun, line = self._line, self._line + text
        self._line = line[line.rfind("\n") + 1 :][-MAX_BEGUN_LINE:]
        redacted = redact(line)
        return redacted[len(commonprefix((redact(begun), redacted))) :]  # noqa: RUF071 - of texts, not of paths

    def on_answer(self) -> int:
        """Called when the notifier has accepted or refused the append; return how many bytes it had."""
        size = 0 if self._unanswered is None else len(self._unanswered.text.encode())
        self._next = replace(self._next, start=self._next.start + size)
        self._unanswered = None
        return size

    def drop(self) -> int:
        """Forget what was not sent; return how many bytes that were, and how many were left out since the last call."""
        self._last_is_due = False
        return self.on_answer() + self._buffer.clear() + self._buffer.take_left_out_bytes()

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
        return self._unanswered is not None or self._last_is_due or not self._buffer.is_empty
