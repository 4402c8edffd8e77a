"""The signals of a service's process, whose handling no code of a job can change.

Python runs signal handlers in the main thread, between any two instructions. If a job in the event loop could set one,
its exception would end whatever the loop runs at that moment, such as a task of the service. Therefore
`signal.signal` and `signal.set_wakeup_fd` raise in the main thread what they raise in all others.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
TIMER_SIGNALS = (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF)
CHECK_INTERVAL_S = 1.0
REFUSAL = "a service's process handles its signals itself: set signal handlers in a job with process=True"

set_handler = signal.signal  # for this package


class ProcessSignals:
    """Calls `on_stop` in the loop when this process is to stop, and ignores the signals of timers."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_stop: Callable[[], object]) -> None:
        self._loop = loop
        self._on_stop = on_stop
        self._refusing_process_id = 0
        for name in ("signal", "set_wakeup_fd"):
            setattr(signal, name, self._guarded(getattr(signal, name)))
        self._set_handlers()

    def refuse_handlers(self) -> None:
        """Refuse to set signal handlers from now on, except in forked children."""
        self._refusing_process_id = os.getpid()

    async def keep_handlers(self) -> None:
        """Set the handlers again at regular intervals: a job can remove one by means of the event loop."""
        while True:
            self._set_handlers()
            await asyncio.sleep(CHECK_INTERVAL_S)

    def _set_handlers(self) -> None:
        for number in STOP_SIGNALS:
            set_handler(number, self._stop)
        for number in TIMER_SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:  # which ends the process
                set_handler(number, lambda *_: None)  # programs that a job starts would inherit SIG_IGN

    def _stop(self, *_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._on_stop)

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **options: Any) -> Any:
            if os.getpid() == self._refusing_process_id:
                raise ValueError(REFUSAL)
            return function(*arguments, **options)

        return guarded
