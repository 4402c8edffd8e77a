"""A `Client` in the event loop of a daemon thread, which runs the calls of all other threads of the process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import RLock, Thread, current_thread
from typing import Any, TypeVar

from headway.client.async_client import Client
from headway.fork_lock import fork_lock

T = TypeVar("T")

CLOSED = "the client was closed; call the method again, which opens it"

# The C library looks up host names under a lock. A process that is forked meanwhile would inherit it locked, and its
# own lookups would wait forever.
_LOOKUP_LOCK = fork_lock()


class ClientThread:
    """Runs a client in a thread, from the first call until `stop`.

    It belongs to one process. A forked process must not use it, and must not close it either: the sockets and the
    selector of the event loop are shared with the parent.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._pid = os.getpid()
        self._lock = RLock()  # reentrant, because signal handlers and finalizers may call during another call
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._stopped = False
        self._failure: Exception | None = None
        self._calls: set[Future[Any]] = set()
        self._opened, self._closing = asyncio.Event(), asyncio.Event()

    def call(self, function: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Call a function with the client in the thread, and return its result.

        Raises:
            RuntimeError: the client was closed, the process was forked, or this is the client's own thread.
        """
        if os.getpid() != self._pid:
            raise RuntimeError("the process was forked; watch the job again")
        if current_thread() is self._thread:
            raise RuntimeError("the client's own thread would wait for itself; call the client in another thread")
        with self._lock:  # the loop takes the call before it stops
            if self._stopped:
                raise RuntimeError(CLOSED)
            loop = self._loop or self._start()
            future = asyncio.run_coroutine_threadsafe(self._run(function), loop)
            self._calls.add(future)
        try:
            return future.result()
        except (CancelledError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not self._stopped:
                raise
            raise RuntimeError(CLOSED) from self._failure
        finally:
            future.cancel()  # after an exception in this thread, such as KeyboardInterrupt
            self._calls.discard(future)

    def stop(self) -> None:
        """Close the client and end the thread. Calls in progress end with a RuntimeError."""
        with self._lock:
            stopped, self._stopped = self._stopped, True
            if self._loop is not None and not stopped:
                self._loop.call_soon_threadsafe(self._closing.set)

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_default_executor(_DaemonThreads())
        self._thread = Thread(target=self._serve, args=(loop,), name="headway-client", daemon=True)
        self._thread.start()
        self._loop = loop
        return loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:  # its end cancels the calls in progress
            try:
                runner.run(self._hold_open())
            except Exception as error:  # noqa: BLE001 - the calls get it
                self._failure = error
            with self._lock:
                self._stopped = True
        for call in list(self._calls):  # those that the loop has never taken
            call.cancel()

    async def _hold_open(self) -> None:
        async with self.client:
            self._opened.set()
            await self._closing.wait()

    async def _run(self, function: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        await self._opened.wait()
        return await function(self.client)


class _DaemonThreads(ThreadPoolExecutor):
    """Runs each call, a lookup of a host name, in a daemon thread.

    A `ThreadPoolExecutor` accepts no calls while `atexit` handlers run, and its threads delay the end of the process.
    """

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Start a thread for the call and return its future."""
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    with _LOOKUP_LOCK:
                        result = function(*args, **kwargs)
                    future.set_result(result)
                except BaseException as error:  # noqa: BLE001 - the caller of the future gets it
                    future.set_exception(error)

        Thread(target=run, name="headway-client-lookup", daemon=True).start()
        return future
