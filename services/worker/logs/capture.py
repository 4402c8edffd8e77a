"""Capture of what handlers log and print, beside its way to the output of the process.

A context variable has the log of the running job. Tasks inherit it, and so do threads that run in a copy of a context,
such as that of a plain handler or of `asyncio.to_thread`. Other threads write to the output of the process alone.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TextIO, cast

from ...runtime.log_handler import MAX_LOG_LENGTH, SafeHandler
from ...runtime.redaction import redact
from ...runtime.tracebacks import TRACEBACK_TEXT, Traceback

STANDARD_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}  # all others are `extra`


class TextLog(Protocol):
    """Receives what a job logs and prints."""

    def write(self, text: str, /) -> object:
        """Add a text; called in any thread."""


_LOG: ContextVar[TextLog | None] = ContextVar("job_log", default=None)
if hasattr(os, "register_at_fork"):  # a forked child cannot send a log, and another thread may have held its lock
    os.register_at_fork(after_in_child=lambda: _LOG.set(None))


@contextmanager
def capture_into(log: TextLog | None) -> Iterator[None]:
    """Add to a log, or to none, what the code of this block, and the tasks and contexts it creates, log and print."""
    token = _LOG.set(log)
    try:
        yield
    finally:
        _LOG.reset(token)


def write_to_log(text: str) -> None:
    """Add a text to the log of the running job, if a job is running."""
    log = _LOG.get()
    if log is not None:
        log.write(text)


@contextmanager
def capture_output() -> Iterator[None]:
    """Capture what jobs log and print in this process."""
    root, handler = logging.getLogger(), CapturingHandler()
    root.addHandler(handler)
    try:
        with capture_streams(write_to_log):
            yield
    finally:
        root.removeHandler(handler)


@contextmanager
def capture_streams(write: Callable[[str], None]) -> Iterator[None]:
    """Call a function with everything that is printed to stdout and stderr, after it was printed."""
    streams: dict[str, Any] = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    captured = {name: CapturedStream(stream, write) for name, stream in streams.items() if stream is not None}
    for name, stream in captured.items():
        setattr(sys, name, cast(TextIO, stream))
    try:
        yield
    finally:
        for name, stream in captured.items():
            if getattr(sys, name) is stream:
                setattr(sys, name, streams[name])


class CapturedStream:
    """A text stream that calls a function with each text, after it was written without secrets to the stream itself."""

    def __init__(self, stream: TextIO, write: Callable[[str], None]) -> None:
        self._stream = stream
        self._write = write

    def write(self, text: str) -> int:
        """Write a text."""
        self._stream.write(redact(text))
        self._write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the stream itself."""
        return getattr(self._stream, name)


class CapturingHandler(SafeHandler):
    """A log handler that adds records to the log of the running job."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(LineFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Add a record to the log."""
        log = _LOG.get()
        if log is None:
            return
        try:
            log.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - of an author's `__str__`, for example
            self.handleError(record)


class TracebackFormatter(logging.Formatter):
    """Formats a record as its message, with the traceback of its exception, cut to its limits."""

    def formatException(self, exc_info: Any) -> str:  # noqa: N802
        """Return the traceback of an exception."""
        error = exc_info[1]
        return "" if error is None else Traceback.of(error).text.rstrip("\n")


class LineFormatter(TracebackFormatter):
    """Formats a record as `HH:MM:SS.mmm LEVEL message name=value`, in UTC, with the traceback of its exception."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line of a record, with its extra values."""
        record.message = record.message[:MAX_LOG_LENGTH]
        extra = (
            f" {name}={str(value)[:MAX_LOG_LENGTH]}"
            for name, value in vars(record).items()
            if name not in STANDARD_RECORD_FIELDS and name != TRACEBACK_TEXT
        )
        return super().formatMessage(record) + "".join(extra)
