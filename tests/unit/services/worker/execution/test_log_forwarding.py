"""Log records that a handler process sends to its worker."""

from __future__ import annotations

import logging
import time

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
