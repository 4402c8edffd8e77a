"""Handlers that are plain functions: each in a thread of its own, beside the loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from headway import Job, JobContext
from headway.context import Attempt, ProgressSink, completed_awaitable
from headway.contracts import Json, Progress


async def run_in_thread(job: Job[..., Any], attempt: Attempt, payload: Any, host: ProgressSink) -> Any:
    """Run a handler in a thread.

    It cannot be stopped, only asked to: when this is cancelled it waits for the thread, whose effects shall end before
    the job is somebody else's.
    """
    thread_host = ThreadHost(host)
    context = JobContext(attempt, thread_host)
    thread = _start_thread(partial(contextvars.copy_context().run, job.handler, context, payload))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError as error:
        if not thread.done():
            context.cancelled = str(error.args[0]) if error.args else "cancel"
            thread_host.close(context.cancelled)
            await asyncio.wait({thread})
        raise


class ThreadHost:
    """A host for a thread: passes to the loop what the handler says."""

    def __init__(self, host: ProgressSink) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._saving: concurrent.futures.Future[None] | None = None
        self._closed: str | None = None

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Tell the loop, which is asked once for many."""
        self._loop.call_soon_threadsafe(self._host.progress_changed, collect)

    def save_checkpoint(self, checkpoint: Json) -> Awaitable[None]:
        """Hold the thread until the checkpoint is kept."""

        async def save() -> None:
            await self._host.save_checkpoint(checkpoint)

        self._saving = saving = asyncio.run_coroutine_threadsafe(save(), self._loop)
        if self._closed is not None:  # in between, so that `close` has not seen it
            saving.cancel()
        try:
            saving.result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError(self._closed or "stop") from None
        return completed_awaitable()

    def close(self, reason: str) -> None:
        """Let go of a thread that waits for its checkpoint."""
        self._closed = reason
        if self._saving is not None:
            self._saving.cancel()


def _start_thread(call: Callable[[], Any]) -> asyncio.Future[Any]:
    """Call in a thread of its own, which no other handler waits for, and this process's end neither."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()
    result.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to ask for it

    def target() -> None:
        settle: Callable[[], None]
        try:
            settle = partial(result.set_result, call())
        except StopIteration as error:  # which no future takes
            settle = partial(result.set_exception, RuntimeError(f"StopIteration: {error}"))
        except BaseException as error:
            settle = partial(result.set_exception, error)
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(settle)

    threading.Thread(target=target, name="handler", daemon=True).start()
    return result
