"""Runs a service in an event loop that no code of a job can stop.

A SystemExit or KeyboardInterrupt of any task or callback ends `run_forever`, also if a handler has left the task
behind; so does any exception of a signal handler or an exception handler that a job has installed. SIGINT and SIGTERM
have handlers of their own, so such an exception is never the operator's. It is logged, and the loop is run again until
the main task has ended.

`asyncio.all_tasks()` returns no task of this loop: code that cancels all tasks, as programs do before they exit, would
cancel those of the service and of other jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakSet

import uvloop

from . import unhandled
from .process_state import Setting

LEFTOVER_TIMEOUT_S = 1.0  # for tasks that handlers have left behind to clean up


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end in a new event loop, and raise its exception if it fails."""
    loop, tasks = uvloop.new_event_loop(), HiddenTasks()
    loop.set_task_factory(tasks)
    unhandled.install(loop)
    try:
        _run_to_end(loop, main)
    finally:
        _run_to_end(loop, _cancel_leftovers(tasks))
        loop.close()


def loop_settings(loop: asyncio.AbstractEventLoop) -> list[Setting]:
    """Return the settings of a loop that code in it can change."""
    executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
    return [
        (loop.get_exception_handler, loop.set_exception_handler),
        (loop.get_task_factory, loop.set_task_factory),
        (object, lambda _: loop.set_default_executor(executor)),  # always set again: asyncio does not return it
    ]


class HiddenTasks(WeakSet[asyncio.Task[Any]]):
    """A task factory that hides its tasks from `asyncio.all_tasks` with a function for other task implementations.

    It is documented: https://docs.python.org/3/library/asyncio-extending.html#task-lifetime-support
    """

    def __call__(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,
    ) -> asyncio.Task[Any]:
        """Create a task."""
        task = asyncio.Task(coro, loop=loop, **options)
        asyncio._unregister_task(task)  # noqa: SLF001
        self.add(task)
        return task


def _run_to_end(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None]) -> None:
    task = loop.create_task(main)
    task.add_done_callback(lambda _: loop.stop())
    while not task.done():
        try:
            loop.run_forever()
        except BaseException as error:  # noqa: BLE001 - it is logged
            unhandled.log_unhandled(error, "event loop")
    task.result()


async def _cancel_leftovers(hidden_tasks: HiddenTasks) -> None:
    """Cancel the tasks that handlers have left behind, and close their asynchronous generators."""
    loop = asyncio.get_running_loop()
    leftovers = {task for task in (*hidden_tasks, *asyncio.all_tasks()) if not task.done()} - {asyncio.current_task()}
    for task in leftovers:
        task.cancel()
    closing = loop.create_task(loop.shutdown_asyncgens())
    await asyncio.wait({*leftovers, closing}, timeout=LEFTOVER_TIMEOUT_S)
