"""Runs handlers that are plain functions, each in a new thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from headway import Job
from headway.context import Attempt, completed_awaitable
from headway.contracts import Json, Progress, StepTimes

from ...runtime.forked_child import NO_REPORTS_FROM_FORKS, ForkBarrier
from ...runtime.tracebacks import thread_stack
from ..outcomes import error_message
from .leased_host import LeasedContext, LeasedHost, check_lease


async def run_in_thread(job: Job[Any, Any], attempt: Attempt, payload: Any, host: LeasedHost) -> Any:
    """Run a handler in a thread and return its result.

    A thread cannot be stopped from outside. On cancellation the handler's next call of its context raises
    CancelledError, and this waits for the thread to end: the job must not be released while its handler has effects.

    Raises:
        LeaseLost: the lease ended before the handler started.
    """
    thread_host = ThreadHost(host)
    context = LeasedContext(attempt, thread_host, host)

    def call() -> Any:
        check_lease(host)
        return job.handler(context, payload)

    thread = _start_thread(partial(contextvars.copy_context().run, call), _thread_name(attempt))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError as error:
        if not thread.done():
            context.cancelled = str(error.args[0]) if error.args else "cancel"
            thread_host.close(context.cancelled)
        while not thread.done():
            with suppress(asyncio.CancelledError):  # another one cannot stop the thread either
                await asyncio.wait({thread})
        raise


def handler_thread_stack(attempt: Attempt) -> list[str]:
    """Return what the thread of an attempt's handler executes, as `thread_stack` does; empty if it has no thread."""
    name = _thread_name(attempt)
    ids = [thread.ident for thread in threading.enumerate() if thread.name == name and thread.ident is not None]
    return thread_stack(ids[-1]) if ids else []


def _thread_name(attempt: Attempt) -> str:
    return f"handler of {attempt.job_id}"


class ThreadHost:
    """The progress sink of a handler in a thread; it forwards progress and checkpoints to the event loop."""

    def __init__(self, host: LeasedHost) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._saving: concurrent.futures.Future[None] | None = None
        self._closed: str | None = None
        self._process_id = os.getpid()

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Called when the handler reports progress, once until it is collected."""
        self._loop.call_soon_threadsafe(self._host.progress_changed, collect)

    def steps_started(self, collect: Callable[[], tuple[StepTimes, ...]]) -> None:
        """Called when the handler begins its first step."""
        self._host.steps_started(collect)

    def save_checkpoint(self, checkpoint: Json) -> Awaitable[None]:
        """Block the thread until the checkpoint is saved.

        Raises:
            CancelledError: the handler is to stop.
            ValueError: the queue message has no room for the checkpoint.
            RuntimeError: this process is a fork of the worker.
        """
        if os.getpid() != self._process_id:
            raise RuntimeError(NO_REPORTS_FROM_FORKS)

        async def save() -> None:
            await self._host.save_checkpoint(checkpoint)

        self._saving = saving = asyncio.run_coroutine_threadsafe(save(), self._loop)
        if self._closed is not None:  # `close` ran before `_saving` was set
            saving.cancel()
        try:
            saving.result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError(self._closed or "stop") from None
        return completed_awaitable()

    def close(self, reason: str) -> None:
        """Cancel a checkpoint in progress, so that the thread does not wait for it."""
        self._closed = reason
        if self._saving is not None:
            self._saving.cancel()


def _start_thread(call: Callable[[], Any], name: str) -> asyncio.Future[Any]:
    """Call a function in a new daemon thread; unlike a thread pool's, it does not delay other calls or the exit."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()
    # Marks the exception as retrieved, or asyncio would log it.
    result.add_done_callback(lambda done: done.cancelled() or done.exception())

    def target() -> None:
        resolve: Callable[[], None]
        try:
            with ForkBarrier():
                resolve = partial(result.set_result, call())
        except StopIteration as error:  # futures reject StopIteration
            resolve = partial(result.set_exception, RuntimeError(f"StopIteration: {error_message(error)}"))
        except BaseException as error:
            resolve = partial(result.set_exception, error)
        with suppress(RuntimeError):  # the loop was closed before the handler ended
            loop.call_soon_threadsafe(resolve)

    threading.Thread(target=target, name=name, daemon=True).start()
    return result
