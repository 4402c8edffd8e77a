"""The tests' own tools for waiting and for ports."""

from __future__ import annotations

import subprocess
import sys

from dev.environment import ROOT
from tests.waiting import free_ports

PRINT_PORTS = "from tests.waiting import free_ports; print(*free_ports(300)); input()"


def test_processes_choose_different_ports() -> None:
    """The ports that two test processes choose at the same time are disjoint, although no server listens yet."""
    command = [sys.executable, "-c", PRINT_PORTS]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        others = set(map(int, other.stdout.readline().split()))
        chosen = set(free_ports(300))
        other.communicate("\n")
    assert (len(others), len(chosen), others & chosen) == (300, 300, set())
