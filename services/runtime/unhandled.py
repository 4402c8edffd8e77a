"""Logs exceptions that no code handles: of background tasks, callbacks, threads and finalizers.

Python prints them with their text, which may contain a payload. Here only their type and place are logged, unless
`LOG_TRACEBACKS` is set.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
from contextlib import suppress
from typing import Any

from .tracebacks import error_fields

LIBRARY_LOGGERS = ("asyncio", "concurrent.futures")  # log the exceptions of tasks, futures and callbacks
log = logging.getLogger(__name__)


def install(loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Log the unhandled exceptions of this process, and those of a loop with the job whose code raised them."""
    threading.excepthook = on_thread_exception
    sys.unraisablehook = on_finalizer_exception
    for name in LIBRARY_LOGGERS:
        logging.getLogger(name).filters[:] = [UnhandledExceptionFilter()]
    if loop is not None:
        loop.set_exception_handler(on_loop_exception)


def on_thread_exception(details: threading.ExceptHookArgs) -> None:
    """Called when an exception ends a thread; SystemExit is the usual way to end one."""
    if details.exc_value is not None and not issubclass(details.exc_type, SystemExit):
        log_unhandled(details.exc_value, "thread")


def on_finalizer_exception(details: sys.UnraisableHookArgs) -> None:
    """Called when `__del__` or another finalizer raises, during the code of any job."""
    if details.exc_value is not None:
        contextvars.Context().run(log_unhandled, details.exc_value, "finalizer")


def on_loop_exception(loop: asyncio.AbstractEventLoop, details: dict[str, Any]) -> None:
    """Called when a callback raises, or when a failed task that nothing awaits is freed, during the code of any job."""
    error = details.get("exception")
    if error is None:
        loop.default_exception_handler(details)
    elif "handle" in details:
        log_unhandled(error, "callback")  # in the context of the callback
    else:
        get_context = getattr(details.get("future"), "get_context", contextvars.Context)  # Python 3.12 and later
        get_context().copy().run(log_unhandled, error, "task")


def log_unhandled(error: BaseException, source: str) -> None:
    """Log an exception that no code handles; `source` is the kind of code that raised it.

    This raises nothing, although a job may have added a log handler or a record factory that does.
    """
    with suppress(BaseException):
        log.error("unhandled_exception", extra=_fields(error, source))


class UnhandledExceptionFilter(logging.Filter):
    """Changes a library's record of an unhandled exception to one with the exception's type and place."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Remove the text of an exception and the values in the message; return True, so that every record is kept."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            vars(record).update(_fields(error, record.name), msg="unhandled_exception", args=(), exc_info=None)
        elif not record.args:
            record.msg = str(record.msg).partition("\n")[0]  # asyncio quotes arguments in the lines that follow
        return True


def _fields(error: BaseException, source: str) -> dict[str, Any]:
    return {"source": source, **error_fields(error)}
