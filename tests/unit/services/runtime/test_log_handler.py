"""Log records that cannot be formatted, in a subprocess because logging is configured for a whole process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[4]
PROGRAM = """
import logging, sys
from services.runtime import logs
from tests.unit.services.runtime.unusual_records import log_unusual_records

logs.configure("worker", "info", sys.argv[1])
log_unusual_records()
circle = []
circle.append(circle)
logging.getLogger("unusual").info("circle", extra={"circle": circle})
nested = []
for _ in range(100_000):
    nested = [nested]
logging.getLogger("unusual").info("nested", extra={"nested": nested})
logging.getLogger("unusual").info("key", extra={("no", "text"): 1})
print("done")
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_log_record_fails_the_code_that_logs_it(log_format: str) -> None:
    """Each record is one line of the usual format; one that cannot be formatted names its place, but not its values."""
    command = [sys.executable, "-c", PROGRAM, log_format]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (completed.returncode, completed.stdout) == (0, "done\n")
    assert "a-secret-argument" not in completed.stderr
    assert "Logging error" not in completed.stderr
    assert len(completed.stderr) < 200_000
    if log_format == "json":
        events = [json.loads(line) for line in completed.stderr.splitlines()]
        invalid = [event for event in events if event["event"] == "log_record_invalid"]
        assert len(events) == 15
        assert all("unusual_records.py:" in event["where"] or "<string>:" in event["where"] for event in invalid)
        assert {event["error"] for event in invalid} >= {"TypeError", "ValueError", "RecursionError"}


CLOSED_PROGRAM = """
import logging, os, sys
import structlog
from services.runtime import logs

logs.configure("worker", "info", "json")
log = structlog.stdlib.get_logger()
log.info("before")
if sys.argv[1] == "descriptor":
    os.close(2)
else:
    sys.stderr.close()
log.info("after")
logging.getLogger("library").warning("after")
print("done")
"""


@pytest.mark.parametrize("closed", ["stream", "descriptor"])
def test_closed_stderr_fails_no_code_that_logs(closed: str) -> None:
    """A job may close the standard error stream; the worker runs on without its log."""
    command = [sys.executable, "-c", CLOSED_PROGRAM, closed]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert completed.stdout == "done\n"
    assert "before" in completed.stderr
    assert "after" not in completed.stderr
