"""Forwarding of what a handler process logs and prints to the worker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress

from headway.contracts import truncate
from headway.type_name import type_name

from ...runtime.log_handler import MAX_LOG_LENGTH, SafeHandler
from ..logs.buffer import LogBuffer
from ..logs.capture import STANDARD_RECORD_FIELDS, TracebackFormatter, capture_into
from .ipc import LogRecord, OutputWritten

PAUSE_S = 1.0  # of forwarding, when a handler prints more than is sent at once


class ForwardingFormatter(TracebackFormatter):
    """Formats a record as at most `MAX_LOG_LENGTH` characters. Of a traceback the end stays: it names the exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message of a record, with the traceback of its exception."""
        text = super().format(record)
        if len(text) <= MAX_LOG_LENGTH or not record.exc_text:
            return text
        start = truncate(record.message, MAX_LOG_LENGTH // 2) + "\n…"
        return start + text[len(start) - MAX_LOG_LENGTH :]


class ForwardingHandler(SafeHandler):
    """A log handler that forwards records to the worker, which adds the job's id and kind."""

    def __init__(self, send: Callable[[LogRecord], None]) -> None:
        super().__init__()
        self.setFormatter(ForwardingFormatter())
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send a log record to the worker; its extra values become strings."""
        try:
            text = encodable_text(self.format(record))
            values = {name: value for name, value in vars(record).items() if name not in STANDARD_RECORD_FIELDS}
            extra = {encodable_text(name): encodable_text(value) for name, value in values.items()}
            self._send(LogRecord(encodable_text(record.name), int(record.levelno), text, extra))
        except Exception:
            self.handleError(record)


class OutputForwarder:
    """Forwards what a handler prints to the worker, each line at once: the next one may crash the process.

    Args:
        send: sends the frame that a function returns, if it returns one; it does nothing while another frame is sent,
            possibly by the code that a signal handler has interrupted.
        on_rest: called when the rest of the output must be sent later, with `flush`.
    """

    def __init__(
        self, send: Callable[[Callable[[], OutputWritten | None]], object], on_rest: Callable[[], None]
    ) -> None:
        self._send = send
        self._on_rest = on_rest
        self._buffer = LogBuffer(time.monotonic())
        self._resume_at = 0.0
        self._is_closed = False

    def write(self, text: str) -> None:
        """Add a text; thread-safe."""
        if not self._is_closed:
            self._buffer.write(text)
            if text.endswith("\n"):
                self.flush()
            else:
                self._on_rest()

    def flush(self) -> None:
        """Send what is due, if any."""
        if time.monotonic() >= self._resume_at:
            with suppress(OSError):  # the connection is broken, which ends this process
                self._send(self._next_frame)
        if not self._buffer.is_empty:
            self._on_rest()

    def close(self) -> OutputWritten | None:
        """Drop all later output; return the frame with the rest, None if there is none."""
        self._is_closed = True
        return self._next_frame(is_final=True)

    def _next_frame(self, *, is_final: bool = False) -> OutputWritten | None:
        now = time.monotonic()
        text = self._buffer.take(now, is_final=is_final)
        if self._buffer.has_line:  # which the rate does not allow now
            self._resume_at = now + PAUSE_S
        return OutputWritten(text, self._buffer.take_left_out_bytes()) if text else None


def log_forwarded(record: LogRecord) -> None:
    """Log a record of a handler process in the worker.

    `Logger.log` would refuse extra values that a record factory of the application adds in both processes.
    """
    fields = {"name": record.logger, "levelno": record.level, "levelname": logging.getLevelName(record.level)}
    logger = logging.getLogger(record.logger)
    if logger.isEnabledFor(record.level):
        with nullcontext() if record.is_captured else capture_into(None):
            logger.handle(logging.makeLogRecord({**record.extra, **fields, "msg": record.text}))


def encodable_text(value: object) -> str:
    """Return a value as text that UTF-8 can encode, cut to `MAX_LOG_LENGTH` characters."""
    try:
        return truncate(str(value), MAX_LOG_LENGTH)
    except Exception as error:  # raised by an author's `__str__`
        return f"<{type_name(value)}: {type_name(error)}>"
