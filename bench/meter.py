"""What processes cost, read from Linux's /proc from outside: CPU time and memory of a process and all its children."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
CPU_CLOCK = 2  # CPUCLOCK_SCHED of a process, as clock_getcpuclockid(3) makes it of its id; nanoseconds, all threads


class Memory(NamedTuple):
    """Resident memory in MB; the proportional one counts what processes share once."""

    resident: float
    proportional: float


def tree(pid: int) -> list[int]:
    """Return the process and all that descend from it."""
    parents = {}
    for status in PROC.glob("[0-9]*/stat"):
        try:
            text = status.read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        parents[int(status.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found


def cpu_s(pid: int) -> float:
    """Return the CPU time, user and system, that a process and its living children have used."""
    used_ns = 0
    for one in tree(pid):
        with suppress(OSError):  # it has ended meanwhile
            used_ns += time.clock_gettime_ns((~one << 3) | CPU_CLOCK)
    return used_ns / 1e9


def memory(pid: int) -> Memory:
    """Return what a process and its children have resident."""
    texts = []
    for one in tree(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            texts.append((PROC / str(one) / "smaps_rollup").read_text())
    resident, proportional = (
        sum(int(kb) for text in texts for kb in re.findall(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)) / 1024
        for name in ("Rss", "Pss")
    )
    return Memory(resident, proportional)
