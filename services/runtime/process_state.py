"""The settings that all code of a process shares, and that a job must not leave changed for other jobs."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from .process_signals import STOP_SIGNALS, TIMER_SIGNALS, set_handler

Setting = tuple[Callable[[], Any], Callable[[Any], object]]  # the functions that return and set it

SIGNALS = (*STOP_SIGNALS, *TIMER_SIGNALS, signal.SIGCHLD, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2)
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
NO_TIMER = (0.0, 0.0)
HOOKS = ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook"))
MAX_TRIES = 10


class ProcessState:
    """The settings of this process at this time: timers, hooks, garbage collection, logging, and `more`."""

    def __init__(self, *more: Setting) -> None:
        settings = (*_settings(), *more)
        self._saved = [(get, set_again, get()) for get, set_again in settings]
        self._unused_timers = [timer for timer in TIMERS if signal.getitimer(timer) == NO_TIMER]

    def restore(self) -> None:
        """Stop the timers that were started since, and set again what has changed; call it in the main thread.

        This raises nothing, although a signal handler of a job may raise in it before it is replaced.
        """
        for _ in range(MAX_TRIES):
            with suppress(BaseException):
                for timer in self._unused_timers:
                    signal.setitimer(timer, 0)
                for get, set_again, value in self._saved:
                    # Most are the same object. Comparing the task factory, a set, would take a time that grows with it.
                    if (current := get()) is not value and current != value:
                        set_again(value)
                return


def _settings() -> list[Setting]:
    root = logging.getLogger()
    handlers = root.handlers[:]

    def set_handlers(_: object) -> None:
        root.handlers[:] = handlers

    return [
        *((partial(getattr, module, name), partial(setattr, module, name)) for module, name in HOOKS),
        (gc.isenabled, lambda enabled: gc.enable() if enabled else gc.disable()),
        (lambda: root.manager.disable, logging.disable),
        (lambda: root.level, root.setLevel),
        (lambda: [handler for handler in root.handlers if handler in handlers], set_handlers),  # others may be added
        (logging.getLogRecordFactory, logging.setLogRecordFactory),
    ]


def signal_settings() -> list[Setting]:
    """Return the handlers of signals, and which are blocked, as settings."""
    return [
        (partial(signal.pthread_sigmask, signal.SIG_BLOCK, ()), partial(signal.pthread_sigmask, signal.SIG_SETMASK)),
        *(
            (partial(signal.getsignal, number), partial(set_handler, number))
            for number in SIGNALS
            if signal.getsignal(number) is not None  # Python cannot set again a handler of C code
        ),
    ]


def current_folder() -> str:
    """Return the current folder; an empty text if it was removed."""
    with suppress(FileNotFoundError):
        return str(Path.cwd())
    return ""


def change_folder(folder: str) -> None:
    """Change the current folder, if the new one exists."""
    with suppress(OSError):
        os.chdir(folder)
