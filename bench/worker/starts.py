"""The record of starts: every handler of every system appends a line, and the bench reads them.

Only the standard library: the peers import it in an environment of their own.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

VARIABLE = "BENCH_STARTS"  # names the file in the environment of workers


@cache
def _file() -> int:
    return os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def started(at: int) -> None:
    """Note that the handler of the job enqueued `at` (CLOCK_MONOTONIC, ns) starts now."""
    os.write(_file(), b"%d %d\n" % (at, time.monotonic_ns()))


class Starts:
    """What the handlers of one worker have noted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._latencies_ms: list[float] = []
        path.touch()

    @property
    def latencies_ms(self) -> list[float]:
        """The times from enqueueing to start so far, in the order of the starts."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]  # the last line may be half written
        self._offset += len(whole)
        for line in whole.splitlines():
            at, now = map(int, line.split())
            self._latencies_ms.append((now - at) / 1e6)
        return self._latencies_ms

    @property
    def count(self) -> int:
        """How many jobs have started so far."""
        return len(self.latencies_ms)
