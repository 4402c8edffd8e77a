"""The event loop of a service runs until its main task ends, whatever other tasks and callbacks raise."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from services.runtime import event_loop, unhandled
from services.runtime.tracebacks import TRACEBACK_TEXT
from tests.unit.services.runtime.unreadable_errors import UNREADABLE, unreadable
from tests.waiting import PATIENCE_S

SECRET = "a-payload"


class Panic(BaseException):
    """An exception of a library that `except Exception` does not catch."""


ERRORS = [
    KeyboardInterrupt(SECRET),
    SystemExit(SECRET),
    GeneratorExit(SECRET),
    Panic(SECRET),
    BaseExceptionGroup(SECRET, [KeyboardInterrupt(SECRET)]),
    ValueError(SECRET),
]

Raise = Callable[..., None]


def in_a_task(loop: asyncio.AbstractEventLoop, raise_error: Raise) -> None:
    """Leave a task behind."""

    async def left_behind() -> None:
        raise_error()

    loop.create_task(left_behind())


def in_a_done_callback(loop: asyncio.AbstractEventLoop, raise_error: Raise) -> None:
    """Raise in the callback of a task."""
    loop.create_task(asyncio.sleep(0)).add_done_callback(raise_error)


def in_a_future_callback(loop: asyncio.AbstractEventLoop, raise_error: Raise) -> None:
    """Raise in the callback of a future."""
    future = loop.create_future()
    future.add_done_callback(raise_error)
    future.set_result(None)


def in_a_callback_of_a_thread(loop: asyncio.AbstractEventLoop, raise_error: Raise) -> None:
    """Raise in a callback that a thread schedules."""
    threading.Thread(target=loop.call_soon_threadsafe, args=(raise_error,)).start()


def in_an_executor(loop: asyncio.AbstractEventLoop, raise_error: Raise) -> None:
    """Raise in a thread of the executor, whose future is not awaited."""
    loop.run_in_executor(None, raise_error)


SOURCES: dict[str, Callable[[asyncio.AbstractEventLoop, Raise], object]] = {
    "call_soon": lambda loop, raise_error: loop.call_soon(raise_error),
    "call_later": lambda loop, raise_error: loop.call_later(0.001, raise_error),
    "task": in_a_task,
    "done_callback": in_a_done_callback,
    "future_callback": in_a_future_callback,
    "thread_callback": in_a_callback_of_a_thread,
    "executor": in_an_executor,
}


@pytest.fixture(autouse=True)
def _restored_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore what the loop installs for the whole process."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    for name in unhandled.LIBRARY_LOGGERS:
        monkeypatch.setattr(logging.getLogger(name), "filters", [])


def unhandled_exceptions(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of the lines that report an unhandled exception."""
    return [vars(record) for record in caplog.records if record.getMessage() == "unhandled_exception"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_main_task_survives(caplog: pytest.LogCaptureFixture, source: str, error: BaseException) -> None:
    """The main task runs on to its end, and the exception is logged with its type and place, not its text."""
    ended = False

    async def main() -> None:
        nonlocal ended
        raised = threading.Event()

        def raise_error(*_: object) -> None:
            raised.set()
            raise error

        SOURCES[source](asyncio.get_running_loop(), raise_error)
        while not (raised.is_set() and unhandled_exceptions(caplog)):
            await asyncio.sleep(0.001)
            gc.collect()
        ended = True

    event_loop.run(asyncio.wait_for(main(), PATIENCE_S))
    assert ended
    for line in unhandled_exceptions(caplog):
        assert line["error"] == type(error).__name__
        assert any("raise_error" in place for place in line["where"])
        assert SECRET in line.pop(TRACEBACK_TEXT)
        assert SECRET not in repr(line)


def test_loop_that_is_stopped_runs_on() -> None:
    """A handler that calls `loop.stop()` does not end the service."""
    steps = 0

    async def main() -> None:
        nonlocal steps
        for _ in range(3):
            asyncio.get_running_loop().stop()
            await asyncio.sleep(0.001)
            steps += 1

    event_loop.run(main())
    assert steps == 3


def test_tasks_cannot_be_cancelled_together() -> None:
    """Code that cancels and awaits all tasks, as a program does that ends, harms no task and is not delayed."""

    async def cancel_all() -> None:
        for _ in range(3):
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks)

    async def neighbour() -> str:
        await asyncio.sleep(0.01)
        return "done"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        names = [loop.create_task(neighbour(), name="named").get_name(), asyncio.create_task(neighbour()).get_name()]
        assert names[0] == "named"
        async with asyncio.TaskGroup() as group:
            neighbours = [group.create_task(neighbour()), asyncio.ensure_future(neighbour())]
            group.create_task(cancel_all())
            await asyncio.to_thread(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
            outcomes.extend(await asyncio.gather(*neighbours))

    outcomes: list[str] = []
    event_loop.run(main())
    assert outcomes == ["done", "done"]


@pytest.mark.parametrize("name", UNREADABLE)
def test_exception_that_cannot_be_read_is_logged(caplog: pytest.LogCaptureFixture, name: str) -> None:
    """The log has the type of an exception whose attributes raise, and the main task runs on."""

    def raise_error() -> None:
        raise unreadable(name)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(raise_error)
        thread = threading.Thread(target=raise_error)
        thread.start()
        while thread.is_alive() or len(unhandled_exceptions(caplog)) < 2:
            await asyncio.sleep(0.001)

    event_loop.run(asyncio.wait_for(main(), PATIENCE_S))
    assert {line["error"] for line in unhandled_exceptions(caplog)} == {name}


def test_jobs_log_handler_that_raises_does_not_end_the_main_task() -> None:
    """A job may add a log handler that raises for the record of an exception."""

    class Raising(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            emitted.append(None)
            raise ValueError

    def raise_error() -> None:
        raise KeyboardInterrupt

    emitted: list[None] = []

    async def main() -> None:
        for raise_it in (raise_error, lambda: 1 / 0):
            asyncio.get_running_loop().call_soon(raise_it)
        while len(emitted) < 2:
            await asyncio.sleep(0.001)

    handler = Raising()
    logging.getLogger().addHandler(handler)
    try:
        event_loop.run(asyncio.wait_for(main(), PATIENCE_S))
    finally:
        logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("error", [ValueError("a"), KeyboardInterrupt("a")], ids=repr)
def test_exception_of_the_main_task_is_raised(error: BaseException) -> None:
    """The caller gets the exception of the main task, of whichever type."""

    async def main() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        event_loop.run(main())
    assert caught.value is error


def test_leftover_tasks_are_cancelled_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that handlers have left behind can clean up; one that refuses to end does not delay the exit for long."""
    monkeypatch.setattr(event_loop, "LEFTOVER_TIMEOUT_S", 0.05)
    cancelled = []

    async def clean_up(number: int, error: BaseException) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise error from None

    async def refuse_to_end(attempts: int) -> None:
        for _ in range(attempts):
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                cancelled.append(0)

    tasks: list[asyncio.Task[None]] = []

    async def main() -> None:
        tasks.extend(asyncio.create_task(clean_up(number, error)) for number, error in enumerate(ERRORS, 1))
        tasks.append(asyncio.create_task(refuse_to_end(2)))
        await asyncio.sleep(0)

    event_loop.run(main())
    assert sorted(cancelled) == list(range(len(ERRORS) + 1))
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # marks it as retrieved
