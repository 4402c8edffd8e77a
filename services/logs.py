"""Logs: one event a line, JSON in a container and colours on a terminal, never a token, key or payload.

Everything logs through `structlog.stdlib`, so that what aiohttp or Azure's SDK have to say takes the same shape.
"""

from __future__ import annotations

import logging
import re
import sys
from functools import lru_cache
from typing import Any

import structlog
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError
from prometheus_client import Counter

from services import metrics

_SECRETS = re.compile(
    r"eyJ[\w-]+\.[\w-]+\.[\w-]*"  # a JSON Web Token, wherever it stands
    r"|(?<=/progress/)[^/?\s\"']+"  # the report key of a one-line report
    r"|(?<=AccountKey=)[^;\s\"']+|(?<=sig=)[^&\s\"']+"  # Azure's keys and signatures
    r"|(?<=://)[^/@\s:]*:[^/@\s]+(?=@)"  # user and password in an address
    r"|(?i:bearer\W+)[^\s\"']+"
)

_MARKS = ("eyJ", "/progress/", "AccountKey=", "sig=", "@")  # one of which each of these has, but for the last

_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
_WITHOUT_META = structlog.stdlib.ProcessorFormatter.remove_processors_meta


def configure(service: str, level: str, style: str) -> None:
    """Set up logging for this process; `style` is `json`, `console` or `auto` (console on a terminal)."""
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper("iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    final: list[Any] = (
        [structlog.dev.ConsoleRenderer(pad_event_to=24, exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [_TRACEBACKS, structlog.processors.JSONRenderer()]
    )
    # Nobody asks which thread and which line of code it was: https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler()
    handler.addFilter(_count)
    handler.setFormatter(_Redacting(foreign_pre_chain=shared, processors=[_WITHOUT_META, *final]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("azure", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").filters[:] = [_Unquoted()]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


def _count(record: logging.LogRecord) -> bool:
    _counter(record.levelname).inc()
    return True


@lru_cache
def _counter(level: str) -> Counter:
    return metrics.LOG_MESSAGES.labels(level.lower())


class _Unquoted(logging.Filter):
    """Drops what aiohttp quotes of a malformed request, which may be anything, keys too: the sender's fault."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | RequestPayloadError):
            record.exc_info, record.msg, record.args = None, "request_malformed", ()
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


class _Redacting(structlog.stdlib.ProcessorFormatter):
    """The last wall: hides what looks like a token or key in whatever is logged, by whichever library."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return _SECRETS.sub("[hidden]", line) if _suspicious(line) else line


def _suspicious(line: str) -> bool:
    """Tell whether a line may hold a secret: a search for all that one may look like takes much longer."""
    return any(mark in line for mark in _MARKS) or "bearer" in line.lower()
