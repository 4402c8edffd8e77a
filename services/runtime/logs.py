"""Logging: one event per line, as JSON in a container and in color on a terminal, without tokens, keys or payloads.

Libraries such as aiohttp and the Azure SDK log through `logging`; their records are formatted the same way.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import MutableMapping
from functools import partial
from typing import Any, TextIO, cast

import structlog

from . import metrics
from .aiohttp_adapter import MALFORMED_REQUEST, is_hang_up
from .exception_tree import bounded_copy
from .log_handler import SafeStream, SafeStreamHandler, shorten_values
from .redaction import redact
from .tracebacks import TRACEBACK_TEXT

_ENCODER = json.JSONEncoder(default=repr)
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
_WITHOUT_META = structlog.stdlib.ProcessorFormatter.remove_processors_meta


def configure(service: str, level: str, log_format: str, *, tracebacks: bool = False) -> None:
    """Configure logging for this process.

    Args:
        service: the service's name, which each line contains.
        level: the least severe level that is logged.
        log_format: `json`, `console` or `auto` (console on a terminal).
        tracebacks: whether lines show the full tracebacks of the jobs' exceptions.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        partial(add_service, service),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper("iso", utc=True),
    ]
    final: list[Any] = (
        [structlog.dev.ConsoleRenderer(pad_event_to=24, exception_formatter=structlog.dev.plain_traceback)]
        if log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
        else [_TRACEBACKS, structlog.processors.JSONRenderer(serializer=_json)]
    )
    traceback_text = show_traceback_text if tracebacks else drop_traceback_text
    rest: list[Any] = [count_lines, traceback_text, limit_exception, *final, redact_secrets]
    # Only the records of libraries pass through `logging`, which takes twice as long as structlog alone.
    handler = SafeStreamHandler()
    foreign = [*shared, structlog.stdlib.ExtraAdder(), shorten_values]
    formatter = structlog.stdlib.ProcessorFormatter(foreign_pre_chain=foreign, processors=[_WITHOUT_META, *rest])
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for logger_name in ("azure", "aiohttp.access", "websockets"):  # at debug level, websockets logs frames with tokens
        logging.getLogger(logger_name).setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").filters[:] = [MalformedRequestFilter(), HangUpFilter()]
    structlog.configure(
        processors=[*shared, *rest],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, SafeStream(sys.stderr))),
        cache_logger_on_first_use=True,
    )


def _json(event: Any, **_options: Any) -> str:
    return _ENCODER.encode(event)


def add_service(service: str, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the service's name to a log line."""
    event.setdefault("service", service)
    return event


def count_lines(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Count a log line by its level."""
    metrics.LOG_COUNTERS.get(event["level"], metrics.LOG_COUNTERS["error"]).inc()
    return event


def drop_traceback_text(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop the text of a job's exception, which may contain the payload."""
    event.pop(TRACEBACK_TEXT, None)
    return event


def show_traceback_text(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Show the text of a job's exception as the traceback of its log line."""
    if text := event.pop(TRACEBACK_TEXT, None):
        event["exception"] = text
    return event


def limit_exception(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace the exception of a log line by a copy of limited size: a handler may log any exception."""
    if exc_info := event.get("exc_info"):
        error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
        error = error if isinstance(error, BaseException) else sys.exc_info()[1]
        event["exc_info"] = None if error is None else bounded_copy(error)
    return event


def redact_secrets(_logger: Any, _method: str, line: Any) -> str:
    """Replace everything that looks like a token or a key, in the logs of libraries, too."""
    return redact(line)


class MalformedRequestFilter(logging.Filter):
    """Removes what aiohttp quotes of a malformed request, which may contain a key, and logs it as a warning."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Remove the details of a malformed request and lower its level; return True, so that every record is kept."""
        if record.exc_info and isinstance(record.exc_info[1], MALFORMED_REQUEST):
            record.exc_info, record.msg, record.args = None, "request_malformed", ()
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


class HangUpFilter(logging.Filter):
    """Drops what aiohttp logs, as an error, if a client disconnects while its request is read or answered."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to keep the record."""
        return not (record.exc_info and is_hang_up(record.exc_info[1]))
