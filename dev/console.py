"""The console: every line of every process under its name, shown and kept in a log file."""

from __future__ import annotations

import os
import queue
import re
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

COLOURS = {"submitter": 36, "notifier": 32, "worker": 33, "azurite": 34, "valkey": 35}
WIDTH = max(map(len, COLOURS))
UNREAD_LINES = 10_000

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def wants_colour(given: Mapping[str, str]) -> bool:
    """Say whether to colour: on a terminal, unless `NO_COLOR` is set."""
    return sys.stdout.isatty() and not given.get("NO_COLOR")


class Console:
    """Shows lines from a thread of its own: a reader that does not read (Ctrl-S, a full pipe) must not stop the run."""

    def __init__(self, logs: Path, *, colour: bool) -> None:
        self._colour = colour
        self._logs = {name: (logs / f"{name}.log").open("w", buffering=1, encoding="utf-8") for name in COLOURS}
        self._lines: queue.Queue[str | None] = queue.Queue(UNREAD_LINES)
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def say(self, text: str) -> None:
        """Show a line of the launcher itself."""
        with suppress(queue.Full):
            self._lines.put_nowait(text)

    def line(self, name: str, text: str) -> str:
        """Show and keep a line of a process; return it without colours."""
        plain = _ESCAPES.sub("", text)
        with suppress(OSError):  # a full disk
            print(plain, file=self._logs[name])
        prefix = f"{name:{WIDTH}} | "
        self.say(f"\x1b[{COLOURS[name]}m{prefix}\x1b[0m{text}" if self._colour else prefix + plain)
        return plain

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the logs and show what is left, as far as somebody reads it."""
        for log in self._logs.values():
            log.close()
        with suppress(queue.Full):
            self._lines.put_nowait(None)
        self._writer.join(timeout=1)

    def _write(self) -> None:
        while (text := self._lines.get()) is not None:
            rest = f"{text}\n".encode(errors="replace")
            with suppress(OSError):  # nobody is there any more; the logs still are
                while rest:
                    rest = rest[os.write(sys.stdout.fileno(), rest) :]
