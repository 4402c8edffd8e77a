"""What `make up` shows: every line of every process behind its name."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress

COLOURS = {"submitter": 36, "notifier": 32, "worker": 33, "azurite": 34, "valkey": 35}
COLOURED = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def print_line(line: str) -> None:
    """Show a line; that nobody reads it any more is no reason to stop."""
    with suppress(OSError):
        print(line, flush=True)


def print_process_line(name: str, line: str) -> str:
    """Show a process's line behind its name; return it without colours."""
    plain = ESCAPES.sub("", line)
    prefix = f"{name:9} | "
    print_line(f"\x1b[{COLOURS[name]}m{prefix}\x1b[0m{line}" if COLOURED else prefix + plain)
    return plain
