"""Log output, produced in a subprocess because logging is configured for a whole process."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from services.runtime import logs
from tests.unit.services.runtime.exception_shapes import chain
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[4]
TOKEN = "eyJhbGciOiJFZERTQSIsImtpZCI6IjEifQ.eyJzdWIiOiIxIn0.c2lnbmF0dXJl-_x"
SECRETS = {
    "a token": f"watched with {TOKEN} in it",
    "a token in an address": f"GET /live/jobs/1?access_token={TOKEN}&x=1",
    "a bearer key": "Authorization: Bearer s3cretkey-1/+",
    "a bearer key after a scheme in lower case": "authorization: bearer s3cretkey-2",
    "the report key of a one-line report": "GET /progress/s3cretkey-3?jobId=1&progress=40",
    "a connection string": "AccountName=dev;AccountKey=s3cretkey-4+/==;QueueEndpoint=http://q",
    "a signature": "https://dev.queue.core.windows.net/jobs?sv=1&sig=s3cretkey-5%3D&se=2",
    "a password": "redis://:s3cretkey-6@redis:6379/0",
    "a user and password": "redis://worker:s3cretkey-7@redis:6379/0",
}
PROGRAM = """
import json, logging, sys
import structlog
from services.runtime import logs

log = structlog.stdlib.get_logger()
logs.configure("worker", "info", sys.argv[1])
secrets = json.loads(sys.argv[2])
for name, text in secrets.items():
    log.info("event", text=text)
    log.warning(text)
    log.info("event", nested={"headers": {"k": [text]}})
    logging.getLogger("azure.core").warning("library said %s", text)
    def fails():
        password = "l0calsecret"
        raise ValueError(text)
    try:
        fails()
    except ValueError:
        log.exception("event_failed")
        logging.getLogger("asyncio").exception("library failed")
log.debug("not_at_this_level")
logging.getLogger("azure.core").info("library info")
with structlog.contextvars.bound_contextvars(job_id="j-1"):
    log.info("job_handled", outcome="succeeded", attempt=2)
"""

TRACEBACK_PROGRAM = """
import logging, sys
import structlog
from services.runtime import logs
from services.runtime.tracebacks import Traceback

logs.configure("worker", "info", sys.argv[1], tracebacks=bool(sys.argv[2]))
fields = Traceback(["jobs.py:3 fails"], "Traceback:\\nValueError: the text\\n").log_fields()
structlog.get_logger().warning("handler_failed", **fields)
logging.getLogger("a.library").warning("unhandled_exception", extra=fields)
"""

WEBSOCKET_PROGRAM = """
import logging
from websockets.protocol import Protocol, Side
from services.runtime import logs

logs.configure("notifier", "debug", "json")
Protocol(Side.SERVER).send_text(b"s3cretkey")
logging.getLogger("asyncio").debug("library said %s", "something")
"""


def output(style: str) -> str:
    """Log all secrets in every way, and return the output."""
    return stderr_of(PROGRAM, style, json.dumps(SECRETS))


def stderr_of(program: str, *arguments: str) -> str:
    """Run a program and return what it wrote to stderr; it must not write to stdout."""
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert completed.stdout == ""
    return completed.stderr


@pytest.fixture(scope="module")
def json_output() -> str:
    """Return the output in the style of a container."""
    return output("json")


@pytest.fixture(scope="module")
def lines(json_output: str) -> list[dict[str, Any]]:
    """Return the events of `json_output`, one per line."""
    return [json.loads(line) for line in json_output.splitlines()]


@pytest.mark.parametrize("style", ["json", "console", "auto"])
def test_no_secret_is_logged(style: str) -> None:
    """Tokens, keys and passwords are hidden in events, values, exceptions and the records of libraries."""
    text = output(style)
    assert "s3cretkey" not in text
    assert "eyJ" not in text
    assert text.count("[hidden]") >= 6 * len(SECRETS)


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_traceback_has_no_locals(style: str) -> None:
    """An exception shows where it was raised but not the values of variables."""
    text = output(style)
    assert "l0calsecret" not in text
    assert "ValueError" in text
    assert "fails" in text


def test_the_text_around_a_secret_is_kept(json_output: str) -> None:
    """Only the secret itself is replaced, so that the line stays useful."""
    for part in (
        "AccountName=dev;AccountKey=[hidden];QueueEndpoint=http://q",
        "/progress/[hidden]?jobId=1&progress=40",
        "redis://[hidden]@redis:6379/0",
        "?access_token=[hidden]&x=1",
        "sv=1&sig=[hidden]&se=2",
    ):
        assert part in json_output


def test_an_event_is_a_line_of_json(lines: list[dict[str, Any]]) -> None:
    """Our events and those of libraries have one format, with the service's name and the time."""
    last = lines[-1]
    assert last.pop("timestamp").endswith("Z")
    assert last == {
        "event": "job_handled",
        "level": "info",
        "service": "worker",
        "job_id": "j-1",
        "outcome": "succeeded",
        "attempt": 2,
    }
    assert {line["service"] for line in lines} == {"worker"}
    assert any(line["event"].startswith("library said") for line in lines)


def test_the_level_is_respected(lines: list[dict[str, Any]]) -> None:
    """Events below the level are not written, and verbose libraries log only warnings and errors."""
    events = [line["event"] for line in lines]
    assert "not_at_this_level" not in events
    assert "library info" not in events


def test_exceptions_are_part_of_their_event(lines: list[dict[str, Any]]) -> None:
    """A traceback is structured and part of its event's line, for our events and those of libraries."""
    failed = [line for line in lines if line["event"] in ("event_failed", "library failed")]
    assert len(failed) == 2 * len(SECRETS)
    assert {line["exception"][0]["exc_type"] for line in failed} == {"ValueError"}
    assert {line["level"] for line in failed} == {"error"}


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize("tracebacks", [False, True])
def test_text_of_a_jobs_exception_is_shown_only_with_tracebacks(style: str, tracebacks: bool) -> None:
    """With LOG_TRACEBACKS the line of our event, or of a library, has the text of the exception."""
    text = stderr_of(TRACEBACK_PROGRAM, style, "1" if tracebacks else "")
    assert text.count("ValueError: the text") == (2 if tracebacks else 0)
    assert text.count("jobs.py:3 fails") == 2


@pytest.mark.parametrize("as_tuple", [True, False])
def test_logged_exception_is_limited(as_tuple: bool) -> None:
    """A handler may log any exception; the line has a copy of limited size."""
    error = chain("__context__")
    exc_info = (type(error), error, None) if as_tuple else error
    copy: BaseException = logs.limit_exception(None, "error", {"exc_info": exc_info})["exc_info"]
    assert len("".join(traceback.format_exception(copy))) < 10_000
    assert str(copy) == "first"


def test_websocket_frames_are_not_logged() -> None:
    """At level debug, libraries log their details, but not the frames of WebSockets, which contain tokens."""
    text = stderr_of(WEBSOCKET_PROGRAM)
    assert "library said something" in text
    assert "s3cretkey" not in text
