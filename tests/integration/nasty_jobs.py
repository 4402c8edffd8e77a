"""Jobs that do everything that could end their worker or harm the jobs beside them."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from headway import Fail, JobContext, Retry, job
from tests.leaks import MARKER

LOG_LINE = "a line of the log of a nasty job"


class Panic(BaseException):
    """An exception of a library that `except Exception` does not catch."""


ERRORS: dict[str, Callable[[], BaseException]] = {
    "interrupt": lambda: KeyboardInterrupt(MARKER),
    "exit": lambda: SystemExit(MARKER),
    "generator-exit": lambda: GeneratorExit(MARKER),
    "panic": lambda: Panic(MARKER),
    "group": lambda: BaseExceptionGroup(MARKER, [Panic(MARKER), KeyboardInterrupt(MARKER)]),
    "fail": lambda: ExceptionGroup(MARKER, [ValueError(MARKER), ExceptionGroup(MARKER, [Fail("No such photo: 2")])]),
    "retry": lambda: ExceptionGroup(MARKER, [Retry("The album is locked.", after_s=0)]),
}


def raise_error(name: str, *_: object) -> NoReturn:
    """Raise the exception with this name."""
    error = ERRORS[name]()
    raise error


async def raise_in_task(name: str) -> None:
    """Raise in a task."""
    await asyncio.sleep(0)
    raise_error(name)


async def gather(name: str) -> None:
    """Raise in a task of `asyncio.gather`."""
    await asyncio.gather(raise_in_task(name), asyncio.sleep(0.1))


async def task_group(name: str) -> None:
    """Raise in a task of a task group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(raise_in_task(name))


async def executor(name: str) -> None:
    """Raise in a thread of the executor."""
    await asyncio.get_running_loop().run_in_executor(None, raise_error, name)


async def cancel_own_task(_name: str) -> None:
    """Cancel the task of the handler."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def leave_behind(name: str) -> None:
    """Leave a task, callbacks and a thread behind that raise, and stop the loop."""
    loop = asyncio.get_running_loop()
    loop.create_task(raise_in_task(name))  # noqa: RUF006 - nothing else refers to the task
    loop.call_soon(raise_error, name)
    loop.call_later(0.01, raise_error, name)
    loop.create_task(asyncio.sleep(0)).add_done_callback(lambda _: raise_error(name))
    loop.run_in_executor(None, raise_error, name)
    threading.Thread(target=raise_error, args=(name,)).start()
    loop.stop()


WAYS: dict[str, Callable[[str], Any]] = {
    function.__name__: function for function in (gather, task_group, executor, cancel_own_task, leave_behind)
}


@job("nasty", max_attempts=1)
async def nasty(ctx: JobContext, payload: tuple[str, str, str]) -> None:
    """Raise an exception in some way."""
    way, name, _ = payload
    ctx.log.info(LOG_LINE)
    if way in WAYS:
        await WAYS[way](name)
    else:
        raise_error(name)


@job("nasty-in-thread", max_attempts=1)
def nasty_in_thread(ctx: JobContext, payload: tuple[str, str, str]) -> None:
    """Raise an exception in a thread."""
    ctx.log.info(LOG_LINE)
    raise_error(payload[1])


@job("nasty-in-process", max_attempts=1, process=True)
def nasty_in_process(ctx: JobContext, payload: tuple[str, str, str]) -> None:
    """Raise an exception in a process, and in a thread of it."""
    ctx.log.info(LOG_LINE)
    thread = threading.Thread(target=raise_error, args=(payload[1],))
    thread.start()
    thread.join()
    raise_error(payload[1])


async def cancel_all_tasks() -> None:
    """Cancel all other tasks and wait for their end, as a program does before it exits."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def handle_signals() -> None:
    """Start a timer whose signal handler raises again and again."""
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    signal.signal(signal.SIGALRM, lambda *_: raise_error("exit"))


async def stop_loop() -> None:
    """Stop the event loop again and again, and try to close it."""
    loop = asyncio.get_running_loop()
    for _ in range(10):
        loop.stop()
        await asyncio.sleep(0)
    loop.close()


async def change_settings() -> None:
    """Change settings of the loop, of the logs and of the process, and leave them."""
    loop = asyncio.get_running_loop()
    loop.remove_signal_handler(signal.SIGTERM)
    loop.set_task_factory(lambda _loop, coro, **_: raise_error("exit"))
    loop.set_exception_handler(lambda *_: raise_error("exit"))
    with ThreadPoolExecutor() as executor:
        loop.set_default_executor(executor)
    logging.basicConfig(force=True)
    logging.disable()
    gc.disable()


MISCHIEF: dict[str, Callable[[], Any]] = {
    function.__name__: function for function in (cancel_all_tasks, handle_signals, stop_loop, change_settings)
}


@job("mischief", max_attempts=1)
async def mischief(_ctx: JobContext, payload: str) -> None:
    """Change what the whole worker shares."""
    await MISCHIEF[payload]()


@job("blocks", max_attempts=1)
async def blocks(_ctx: JobContext, seconds: float) -> None:
    """Block the event loop."""
    time.sleep(seconds)


@job("innocent", max_attempts=2)
async def innocent(ctx: JobContext, seconds: float) -> int:
    """Sleep, and return the number of the attempt."""
    await asyncio.sleep(seconds)
    return ctx.attempt


@job("innocent-in-thread", max_attempts=2)
def innocent_in_thread(ctx: JobContext, seconds: float) -> int:
    """Sleep in a thread, and return the number of the attempt."""
    for _ in ctx.track(range(10)):
        time.sleep(seconds / 10)
    return ctx.attempt


@job("innocent-in-process", max_attempts=2, process=True)
def innocent_in_process(ctx: JobContext, seconds: float) -> int:
    """Sleep in a process, and return the number of the attempt."""
    for _ in ctx.track(range(10)):
        time.sleep(seconds / 10)
    return ctx.attempt
