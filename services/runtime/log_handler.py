"""Log handlers for the records of libraries and jobs. No record fails the code that logs it."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO

from .exception_tree import type_name

INVALID_RECORD = "log_record_invalid"
MAX_LOG_LENGTH = 16_384  # characters of a record's text, and of each of its extra values


class SafeHandler(logging.Handler):
    """A log handler that logs the place of a record that it cannot format, because its arguments do not match or raise.

    It does not show the record's values, as `logging` does: they may be a payload's.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Called when a record cannot be formatted or sent."""
        if record.msg is INVALID_RECORD:
            return
        fields = {name: vars(record)[name] for name in ("name", "levelno", "levelname")}
        error, where = type_name(sys.exc_info()[1] or Exception()), f"{record.pathname}:{record.lineno}"
        self.emit(logging.makeLogRecord({**fields, "msg": INVALID_RECORD, "error": error, "where": where}))


class SafeStreamHandler(SafeHandler, logging.StreamHandler[TextIO]):
    """A safe handler that writes to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            super().emit(record)
        except RecursionError:  # a value contains itself: the base class lets this error through
            self.handleError(record)


class SafeStream:
    """A stream that drops what it cannot write, because a job has closed the stream, or its reader is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write a text."""
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def shorten_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut the text and the extra values of a record to `MAX_LOG_LENGTH`."""
    for name, value in event.items():
        if isinstance(value, str) and len(value) > MAX_LOG_LENGTH:
            event[name] = value[:MAX_LOG_LENGTH]
    return event
