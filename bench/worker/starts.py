"""The file of starts: the handlers of all systems append a line each, and the benchmark reads them.

This module uses only the standard library, since the peers import it in a separate environment.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

STARTS_FILE_VARIABLE = "BENCH_STARTS"  # the worker's environment variable with the path of the file


@cache
def _file() -> int:
    return os.open(os.environ[STARTS_FILE_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def record_start(at: int) -> None:
    """Record that the handler of a job starts now; `at` is when the job was enqueued (CLOCK_MONOTONIC, ns)."""
    os.write(_file(), b"%d %d\n" % (at, time.monotonic_ns()))


class Starts:
    """The starts that the handlers of one worker have recorded."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._latencies_ms: list[float] = []
        path.touch()

    @property
    def latencies_ms(self) -> list[float]:
        """The times from enqueueing to start, in the order of the starts."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]  # the last line may be incomplete
        self._offset += len(complete)
        for line in complete.splitlines():
            at, now = map(int, line.split())
            self._latencies_ms.append((now - at) / 1e6)
        return self._latencies_ms

    @property
    def count(self) -> int:
        """The number of jobs that have started."""
        return len(self.latencies_ms)
