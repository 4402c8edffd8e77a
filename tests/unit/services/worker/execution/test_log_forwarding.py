"""Log records that a handler process sends to its worker."""

from __future__ import annotations

import logging
import time
from itertools import pairwise

import pytest

from services.runtime.log_handler import MAX_LOG_LENGTH
from services.worker.execution.ipc import LogRecord
from services.worker.execution.log_forwarding import ForwardingHandler
from tests.unit.services.runtime.exception_shapes import MAX_S, chain


def test_logged_exception_is_limited() -> None:
    """A record has the traceback of its exception, of which a long chain is cut."""
    sent: list[LogRecord] = []
    record = logging.makeLogRecord({"msg": "failed", "levelno": 40, "exc_info": (None, chain("__context__"), None)})
    started_at = time.process_time()
    ForwardingHandler(sent.append).emit(record)
    assert time.process_time() - started_at < MAX_S
    assert sent[0].text.startswith("failed\nTraceback (most recent call last):\n")
    assert sent[0].text.endswith("ValueError: first")


@pytest.mark.parametrize("message", ["failed", "long " * 10_000])
def test_the_end_of_a_long_traceback_is_kept(message: str) -> None:
    """It names the exception that was raised last; the message is before it."""
    errors = [*(ValueError("cause " * 1_000) for _ in range(5)), ValueError("the last one")]
    for cause, error in pairwise(errors):
        error.__cause__ = cause
    sent: list[LogRecord] = []
    record = logging.makeLogRecord({"msg": message, "levelno": 40, "exc_info": (None, errors[-1], None)})
    ForwardingHandler(sent.append).emit(record)
    assert len(sent[0].text) == MAX_LOG_LENGTH
    assert sent[0].text.startswith(message[:1000])
    assert sent[0].text.endswith("ValueError: the last one")
