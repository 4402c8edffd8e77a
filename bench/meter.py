"""CPU time and memory of a process and its descendants, read from Linux's /proc."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
CPU_CLOCK = 2  # CPUCLOCK_SCHED: clock_getcpuclockid(3) combines it with the process id; nanoseconds of all threads


class Memory(NamedTuple):
    """Resident memory in MB; `proportional` counts pages that processes share once."""

    resident: float
    proportional: float


def process_tree(pid: int) -> list[int]:
    """Return the ids of the process and its descendants."""
    parents = {}
    for status in PROC.glob("[0-9]*/stat"):
        try:
            text = status.read_text()
        except (FileNotFoundError, ProcessLookupError):  # the process has ended meanwhile
            continue
        parents[int(status.parent.name)] = int(text.rpartition(")")[2].split()[1])
    members = [pid]
    for member in members:
        members += [child for child, parent in parents.items() if parent == member]
    return members


def cpu_s(pid: int) -> float:
    """Return the user and system CPU time of a process and its running descendants."""
    used_ns = 0
    for member in process_tree(pid):
        with suppress(OSError):  # the process has ended meanwhile
            used_ns += time.clock_gettime_ns((~member << 3) | CPU_CLOCK)
    return used_ns / 1e9


def memory(pid: int) -> Memory:
    """Return the resident memory of a process and its descendants."""
    texts = []
    for member in process_tree(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            texts.append((PROC / str(member) / "smaps_rollup").read_text())
    resident, proportional = (
        sum(int(kb) for text in texts for kb in re.findall(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)) / 1024
        for name in ("Rss", "Pss")
    )
    return Memory(resident, proportional)
