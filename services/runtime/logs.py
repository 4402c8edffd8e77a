"""Logs: one event a line, JSON in a container and colours on a terminal, never a token, key or payload.

What libraries say, aiohttp or Azure's SDK, goes through `logging`, and takes the same shape.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError

from . import metrics

_SECRETS = re.compile(
    r"eyJ[\w-]+\.[\w-]+\.[\w-]*"  # a JSON Web Token, wherever it stands
    r"|(?<=/progress/)[^/?\s\"']+"  # the report key of a one-line report
    r"|(?<=AccountKey=)[^;\s\"']+|(?<=sig=)[^&\s\"']+"  # Azure's keys and signatures
    r"|(?<=://)[^/@\s:]*:[^/@\s]+(?=@)"  # user and password in an address
    r"|(?i:bearer\W+)[^\s\"']+"
)

_MARKS = ("eyJ", "/progress/", "AccountKey=", "sig=", "@")  # one of which each of these has, but for the last

_ENCODER = json.JSONEncoder(default=repr)  # made once
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
_WITHOUT_META = structlog.stdlib.ProcessorFormatter.remove_processors_meta


def configure(service: str, level: str, style: str) -> None:
    """Set up logging for this process; `style` is `json`, `console` or `auto` (console on a terminal)."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper("iso", utc=True),
    ]
    final: list[Any] = (
        [structlog.dev.ConsoleRenderer(pad_event_to=24, exception_formatter=structlog.dev.plain_traceback)]
        if style == "console" or (style == "auto" and sys.stderr.isatty())
        else [_TRACEBACKS, structlog.processors.JSONRenderer(serializer=_json)]
    )
    # What libraries say goes through `logging`, what we say does not: that would take twice as long.
    handler = logging.StreamHandler()
    foreign = [*shared, structlog.stdlib.ExtraAdder()]
    steps = [_WITHOUT_META, count_lines, *final, redact_secrets]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=foreign, processors=steps))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("azure", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").filters[:] = [MalformedRequestFilter()]
    structlog.configure(
        processors=[*shared, count_lines, *final, redact_secrets],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


def _json(event: Any, **_options: Any) -> str:
    return _ENCODER.encode(event)


def count_lines(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Count a log line by its level."""
    metrics.LOG_COUNTERS.get(event["level"], metrics.LOG_COUNTERS["error"]).inc()
    return event


def redact_secrets(_logger: Any, _method: str, line: Any) -> str:
    """Hide what looks like a token or key: the last wall, for whatever is logged, by whichever library."""
    suspicious = any(mark in line for mark in _MARKS) or "bearer" in line.lower()
    return _SECRETS.sub("[hidden]", line) if suspicious else line


class MalformedRequestFilter(logging.Filter):
    """Drops what aiohttp quotes of a malformed request, which may be anything, keys too: the sender's fault."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Remove the details of a malformed request; keep every record."""
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | RequestPayloadError):
            record.exc_info, record.msg, record.args = None, "request_malformed", ()
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True
