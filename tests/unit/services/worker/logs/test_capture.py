"""Capture of what jobs log and print: each job's lines in its own log, and all lines in the process's output."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from headway.testing import run_async
from services.worker.logs.capture import CapturingHandler, capture_into, capture_output, capture_streams
from tests.documents import Document

log = logging.getLogger("shop")


@contextmanager
def captured() -> Iterator[io.StringIO]:
    """Capture what the block logs and prints; not in a fixture, because pytest replaces the streams after it."""
    level, text = logging.getLogger().level, io.StringIO()
    logging.getLogger().setLevel(logging.INFO)
    try:
        with capture_output(), capture_into(text):
            yield text
    finally:
        logging.getLogger().setLevel(level)


def lines(text: io.StringIO) -> list[str]:
    """Return the lines of a log, without their times."""
    return [line[13:] if line[2:3] == ":" else line for line in text.getvalue().splitlines()]


def test_lines_go_to_the_log_and_to_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    """`print`, stderr and any logger at or above the level of the service are captured, in their order."""
    with captured() as text:
        print("printed", 1)
        print("to stderr", file=sys.stderr)
        sys.stdout.writelines(["a\n", "b\n"])
        log.info("parcels_shipped", extra={"parcels": 3})
        log.debug("too detailed")
    print("after the job")
    assert lines(text) == ["printed 1", "to stderr", "a", "b", "INFO parcels_shipped parcels=3"]
    assert capsys.readouterr() == ("printed 1\na\nb\nafter the job\n", "to stderr\n")


def test_no_token_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """It is hidden in the output of the process; the log of the job hides it when it is sent."""
    token = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
    with captured():
        print("the link is", f"https://jobs.example.org/jobs/1#{token}")
        print(token, file=sys.stderr)
        assert sys.stdout.write(token) == len(token)
    assert capsys.readouterr() == ("the link is https://jobs.example.org/jobs/1#[hidden]\n[hidden]", "[hidden]\n")


def test_nothing_is_captured_between_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    """The streams are those of before when the capture ends."""
    before = sys.stdout
    with capture_streams(lambda _: None):
        assert sys.stdout is not before
        assert sys.stdout.encoding == before.encoding
    assert sys.stdout is before
    print("not captured")
    assert capsys.readouterr().out == "not captured\n"


async def test_jobs_side_by_side_do_not_mix() -> None:
    """Two jobs in the event loop, their tasks, and the threads that they call get their own lines only."""

    async def handler(name: str) -> None:
        for number in range(20):
            log.info("%s %d", name, number)
            await asyncio.to_thread(log.info, "%s thread %d", name, number)
            await asyncio.create_task(child(name, number))

    async def child(name: str, number: int) -> None:
        print(f"{name} task {number}")
        await asyncio.sleep(0)

    async def job(name: str) -> list[str]:
        text = io.StringIO()
        with capture_into(text):
            await asyncio.create_task(handler(name))
        return lines(text)

    with captured() as outside:
        logs = await asyncio.gather(*(job(name) for name in "abc"))
    assert outside.getvalue() == ""
    for name, own in zip("abc", logs, strict=True):
        expected = [(f"INFO {name} {n}", f"INFO {name} thread {n}", f"{name} task {n}") for n in range(20)]
        assert own == [line for group in expected for line in group]


def test_plain_thread_is_not_captured() -> None:
    """A thread that a handler starts itself has no context: its lines go to the output alone."""
    with captured() as text:
        thread = threading.Thread(target=log.info, args=("from a thread",))
        thread.start()
        thread.join()
    assert text.getvalue() == ""


def test_exception_is_logged_with_its_traceback() -> None:
    """`log.exception` has the lines of the traceback; what the worker hides from its output is hidden here, too."""
    with captured() as text:
        try:
            int("no parcels")
        except ValueError:
            log.exception("failed", extra={"traceback_text": "hidden"})
            traceback.print_exc()
    logged = lines(text)
    assert logged[:2] == ["ERROR failed", "Traceback (most recent call last):"]
    assert logged.count("ValueError: invalid literal for int() with base 10: 'no parcels'") == 2
    assert "hidden" not in text.getvalue()


def test_record_that_cannot_be_formatted_fails_no_job() -> None:
    """Wrong arguments and a raising `__str__` leave a line with the place of the record."""

    class Raises:
        def __str__(self) -> str:
            raise ValueError("secret")

    level = {"levelno": logging.ERROR, "levelname": "ERROR"}
    text, handler = io.StringIO(), CapturingHandler()  # the handler of pytest would raise
    with capture_into(text):
        handler.emit(logging.makeLogRecord({**level, "msg": "%d", "args": ("not a number",)}))
        handler.emit(logging.makeLogRecord({**level, "msg": Raises()}))
        handler.emit(logging.makeLogRecord({**level, "msg": "shipped", "parcel": Raises()}))
    assert [line.split()[1:3] for line in text.getvalue().splitlines()] == [["ERROR", "log_record_invalid"]] * 3
    assert "secret" not in text.getvalue()


def test_forked_child_has_no_log() -> None:
    """A process that a handler forks prints to the output alone: it could not send a log."""
    with captured() as text:
        if (pid := os.fork()) == 0:
            print("from a child")
            os._exit(1 if text.getvalue() else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print("from the parent")
    assert lines(text) == ["from the parent"]


async def test_example_of_the_documentation_logs_what_the_page_shows() -> None:
    """The handler in docs/logs.md logs and prints the lines below it."""
    code, output = Document("docs/logs.md").examples("python", "")[:2]
    namespace: dict[str, Any] = {}
    exec(code.text, namespace)
    with captured() as text:
        await run_async(namespace["label_parcels"], ["1007", "X8"])
    assert lines(text) == lines(io.StringIO(output.text))
