"""Jobs with `process=True` that change what all code of their process shares."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headway import JobContext, job

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGUSR1)


def raise_error(*_: object) -> None:
    """Handle a signal, as a time limit of a library does."""
    raise TimeoutError("of the signal handler")


def set_handlers(handler: Any) -> None:
    """Set the handler of many signals."""
    for number in NUMBERS:
        signal.signal(number, handler)


def repeat_timer() -> None:
    """Start a timer that raises again and again."""
    signal.signal(signal.SIGALRM, raise_error)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)


def set_wakeup_descriptor() -> None:
    """Set a wake-up descriptor that is full at once."""
    ours, _ = socket.socketpair()
    ours.setblocking(False)
    signal.set_wakeup_fd(ours.detach())


def enter_removed_folder() -> None:
    """Change to a folder that does not exist any more."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)


CHANGES: dict[str, Callable[[], object]] = {
    "raising handlers": lambda: set_handlers(raise_error),
    "ignored signals": lambda: set_handlers(signal.SIG_IGN),
    "default handlers": lambda: set_handlers(signal.SIG_DFL),
    "repeated timer": repeat_timer,
    "alarm": lambda: (signal.signal(signal.SIGALRM, signal.SIG_DFL), signal.setitimer(signal.ITIMER_REAL, 1000)),
    "wake-up descriptor": set_wakeup_descriptor,
    "blocked signals": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS),
    "folder": enter_removed_folder,
    "no garbage collection": gc.disable,
    "no logging": lambda: logging.disable(logging.CRITICAL),
    "other logging": lambda: logging.basicConfig(force=True, level=logging.CRITICAL),
}


@job("changes-state", process=True)
def changes_state(_ctx: JobContext, payload: tuple[str, str]) -> int:
    """Make a change and leave it behind; return the process id, or raise."""
    change, end = payload
    CHANGES[change]()
    if end == "raises":
        raise ValueError("of the handler")
    return os.getpid()


@job("shows-state", process=True)
def shows_state(ctx: JobContext, _payload: Any) -> dict[str, Any]:
    """Log a line, and return what a job can expect of its process."""
    ctx.log.info("shown")
    return {
        "pid": os.getpid(),
        "handlers": [str(signal.getsignal(number)) for number in NUMBERS[1:]],
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timer": signal.getitimer(signal.ITIMER_REAL)[0],
        "wake-up descriptor": signal.set_wakeup_fd(-1),
        "folder": str(Path.cwd()),
        "collects": gc.isenabled(),
    }


@job("logs-much", process=True)
def logs_much(ctx: JobContext, payload: int) -> None:
    """Log more than the connection to the worker holds."""
    for _ in range(payload):
        ctx.log.info("x" * 16_000)
