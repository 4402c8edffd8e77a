"""The guard: a process of its own that ends what a killed launcher (`kill -9`) would leave behind.

Its standard input closes with the launcher; a word in it first means that nothing is left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dev.environment import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GRACE_S = 5
POLL_S = 0.05


@contextmanager
def guarded(pids: Path) -> Iterator[None]:
    """Have the processes named in the folder `pids` ended should this process be killed meanwhile."""
    command = (sys.executable, "-m", "dev.guard", str(pids))
    quiet = subprocess.DEVNULL
    guard = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True
    )
    try:
        yield
    finally:
        guard.communicate(b"done")


def take(pids: Path) -> list[int]:
    """Return the process ids in the folder, and remove the files."""
    files = list(pids.iterdir())
    found = [int(file.read_text()) for file in files]
    for file in files:
        file.unlink()
    return found


def end(groups: Iterable[int]) -> None:
    """Ask the process groups to end, and kill what is left after the grace."""
    left = [group for group in groups if send(group, signal.SIGTERM)]
    deadline = time.monotonic() + GRACE_S
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        left = [group for group in left if send(group, 0)]
    for group in left:
        send(group, signal.SIGKILL)


def send(group: int, number: int) -> bool:
    """Send a signal to a process group, 0 to ask only; False when it is gone."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS refuses when only zombies are left
        return False
    return True


if __name__ == "__main__":
    if not sys.stdin.buffer.read():
        end(take(Path(sys.argv[1])))
