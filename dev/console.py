"""The output of `make up`: each line of a process, prefixed with the name of the process."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress

COLORS = {"submitter": 36, "notifier": 32, "worker": 33, "azurite": 34, "valkey": 35}
USE_COLORS = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def print_line(line: str) -> None:
    """Print a line; ignore a closed terminal or pipe."""
    with suppress(OSError):
        print(line, flush=True)


def print_process_line(name: str, line: str) -> str:
    """Print a process's line after its name, and return the line without colors."""
    plain = ESCAPES.sub("", line)
    prefix = f"{name:9} | "
    print_line(f"\x1b[{COLORS[name]}m{prefix}\x1b[0m{line}" if USE_COLORS else prefix + plain)
    return plain
