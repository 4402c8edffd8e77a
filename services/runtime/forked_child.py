"""Isolation of forked children: they get default signal handling, and they cannot act as the service.

A forked child has copies of the event loop's signal handlers and descriptors. A signal to the child would stop the
service, because both have the same wake-up socket. A child that ran the loop on would answer the service's connections,
and one that closed a connection would unregister it from the epoll instance, which both have, too.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from .process_signals import STOP_SIGNALS, TIMER_SIGNALS

HANDLED_SIGNALS = (*STOP_SIGNALS, *TIMER_SIGNALS, signal.SIGCHLD)  # by the service or the handler process
NO_REPORTS_FROM_FORKS = "a process that a handler has forked cannot report for the job"
LOST_CHILD = b"A process that a handler has forked returned to the event loop, which it cannot use. It exits.\n"


def reset_forked_children(on_fork: Callable[[], None]) -> None:
    """Give every forked child of this process the default signal handling, and then call a function in it.

    A fork blocks the signals for a moment: otherwise this process's handlers would run in a child that is signaled
    before they are reset.
    """
    thread = threading.local()

    def before() -> None:
        thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)

    def restore_mask() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, thread.mask)

    def reset() -> None:
        try:
            signal.set_wakeup_fd(-1)
            for signal_number in HANDLED_SIGNALS:
                signal.signal(signal_number, signal.SIG_DFL)
            on_fork()
        finally:
            restore_mask()
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        except KeyboardInterrupt:  # which Python would drop here
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)

    os.register_at_fork(before=before, after_in_parent=restore_mask, after_in_child=reset)


def isolate_forked_children(loop: asyncio.AbstractEventLoop) -> None:
    """Keep forked children away from the event loop of this process; call this before anything else opens an epoll.

    In a child, /dev/null replaces the descriptors that the loop watches, and a new epoll instance replaces the loop's;
    closing them instead would free their numbers for other files. The child exits when its code returns to the loop.
    """
    epoll_descriptors = _epoll_descriptors()

    def leave_loop() -> None:
        with Path(os.devnull).open("r+b", buffering=0) as null:
            for epoll_descriptor in epoll_descriptors:
                # The service may watch a descriptor that it has opened since the fork, with the number of `null` here.
                for descriptor in _watched_descriptors(epoll_descriptor) - {null.fileno()}:
                    os.dup2(null.fileno(), descriptor, inheritable=False)
                with select.epoll() as epoll:
                    os.dup2(epoll.fileno(), epoll_descriptor, inheritable=False)
        # Without a current task, asyncio raises at the end of the task's step, before the loop calls anything else:
        # https://docs.python.org/3/library/asyncio-extending.html#task-lifetime-support
        if (task := asyncio.current_task(loop)) is not None:
            asyncio._leave_task(loop, task)  # noqa: SLF001 - a documented function
        loop.set_exception_handler(lambda *_: _exit_lost_child())
        loop.call_soon(_exit_lost_child)  # after a callback or an eager task

    reset_forked_children(leave_loop)


def _epoll_descriptors() -> list[int]:
    """Return the epoll instances of this process; none on systems without /proc."""
    descriptors = []
    with suppress(FileNotFoundError):
        for link in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # the descriptor of this listing
                if str(link.readlink()) == "anon_inode:[eventpoll]":
                    descriptors.append(int(link.name))
    return descriptors


def _watched_descriptors(epoll_descriptor: int) -> set[int]:
    information = Path(f"/proc/self/fdinfo/{epoll_descriptor}").read_text()
    return {int(number) for number in re.findall(r"^tfd:\s*(\d+)", information, re.MULTILINE)}


def _exit_lost_child() -> None:
    os.write(2, LOST_CHILD)
    os._exit(1)


class ForkBarrier:
    """A context manager around the call of a handler: a child that the handler forks exits at the end of the block."""

    def __enter__(self) -> None:
        self._process_id = os.getpid()

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if os.getpid() == self._process_id:
            return
        with suppress(Exception):
            sys.stdout.flush()
        code = error.code if isinstance(error, SystemExit) else error and 1
        os._exit(code & 0xFF if isinstance(code, int) else int(code is not None))
