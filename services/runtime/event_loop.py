"""Runs a service in an event loop that no code of a job can stop.

A SystemExit or KeyboardInterrupt of any task or callback ends `run_forever`, also if a handler has left the task
behind; so does any exception of a signal handler or an exception handler that a job has installed. SIGINT and SIGTERM
have handlers of their own, so such an exception is never the operator's. It is logged, and the loop is run again until
the main task has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import uvloop

from . import unhandled

LEFTOVER_TIMEOUT_S = 1.0  # for tasks that handlers have left behind to clean up


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end in a new event loop, and raise its exception if it fails."""
    loop = uvloop.new_event_loop()
    unhandled.install(loop)
    try:
        _run_to_end(loop, main)
    finally:
        _run_to_end(loop, _cancel_leftovers())
        loop.close()


def _run_to_end(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None]) -> None:
    task = loop.create_task(main)
    task.add_done_callback(lambda _: loop.stop())
    while not task.done():
        try:
            loop.run_forever()
        except BaseException as error:  # noqa: BLE001 - it is logged
            unhandled.log_unhandled(error, "event loop")
    task.result()


async def _cancel_leftovers() -> None:
    """Cancel the tasks that handlers have left behind, and close their asynchronous generators."""
    loop = asyncio.get_running_loop()
    leftovers = asyncio.all_tasks() - {asyncio.current_task()}
    for task in leftovers:
        task.cancel()
    closing = loop.create_task(loop.shutdown_asyncgens())
    await asyncio.wait({*leftovers, closing}, timeout=LEFTOVER_TIMEOUT_S)
