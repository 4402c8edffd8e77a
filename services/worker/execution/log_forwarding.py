"""Forwarding of log records from a handler process to the worker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from headway.contracts import truncate
from headway.type_name import type_name

from ...runtime.log_handler import MAX_LOG_LENGTH, SafeHandler
from ...runtime.tracebacks import Traceback
from .ipc import LogRecord

STANDARD_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}  # all others are `extra`


class _Formatter(logging.Formatter):
    """Formats a record as `%(message)s`, with the traceback of its exception."""

    def formatException(self, exc_info: Any) -> str:  # noqa: N802
        """Return the traceback of an exception, cut to its limits."""
        error = exc_info[1]
        return "" if error is None else Traceback.of(error).text.rstrip("\n")


class ForwardingHandler(SafeHandler):
    """A log handler that forwards records to the worker, which adds the job's id and kind."""

    def __init__(self, send: Callable[[LogRecord], None]) -> None:
        super().__init__()
        self.setFormatter(_Formatter())
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


def log_forwarded(record: LogRecord) -> None:
    """Log a record of a handler process in the worker.

    `Logger.log` would refuse extra values that a record factory of the application adds in both processes.
    """
    fields = {"name": record.logger, "levelno": record.level, "levelname": logging.getLevelName(record.level)}
    logger = logging.getLogger(record.logger)
    if logger.isEnabledFor(record.level):
        logger.handle(logging.makeLogRecord({**record.extra, **fields, "msg": record.text}))


def encodable_text(value: object) -> str:
    """Return a value as text that UTF-8 can encode, cut to `MAX_LOG_LENGTH` characters."""
    try:
        return truncate(str(value), MAX_LOG_LENGTH)
    except Exception as error:  # raised by an author's `__str__`
        return f"<{type_name(value)}: {type_name(error)}>"
