"""The machine of a new user, who follows the pages from docs/get-started.md on."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from dev.environment import ROOT
from tests.documents import Document
from tests.terminal import Terminal, open_terminal
from tests.waiting import free_ports

GET_STARTED = Document("docs/get-started.md")
SLOW_JOBS, APP = (example.text for example in GET_STARTED.examples("python"))
JOBS = SLOW_JOBS.replace("asyncio.sleep(1)", "asyncio.sleep(0.3)")
INSTALL, COMPOSE, MAKE, START, RUN, SUBMIT, SERVE, KILL, RESTART, STOP = (
    example.text for example in GET_STARTED.examples("sh")
)
APP_PORT, SUBMITTER_PORT = "8000", "8080"
PORTS = (APP_PORT, SUBMITTER_PORT, "8081", "9190", "9191", "9192")
PROGRAMS = {
    "python3": f'exec {sys.executable} "$@"',
    "git": '[ "$1" = clone ]',  # the clone is there
    "docker": '[ "$*" = "compose up --detach" ]',  # the stores are running already
}


class Machine:
    """A folder with a clone of the repository in it, and free ports for everything that the pages start."""

    def __init__(self, folder: Path, stores: Mapping[str, str]) -> None:
        self.folder = folder
        self.letters = folder / "letters"  # the folder that the user creates
        self._replacements = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self._replacements["UseDevelopmentStorage=true"] = f"'{stores['QUEUE_CONNECTION_STRING']}'"
        self._replacements["redis://127.0.0.1:6390"] = stores["REDIS_URL"]
        (folder / "headway").symlink_to(ROOT)
        (folder / "bin").mkdir()
        for name, command in PROGRAMS.items():
            script = folder / "bin" / name
            script.write_text(f"#!/bin/sh\n{command}\n")
            script.chmod(0o755)

    def localize(self, text: str) -> str:
        """Replace the ports of the pages by those of this machine, and their stores by those of the tests."""
        pattern = "|".join(map(re.escape, self._replacements))
        return re.sub(pattern, lambda match: self._replacements[match[0]], text)

    def url(self, port: str) -> str:
        """Return the address of a port of the pages."""
        return self.localize(f"http://127.0.0.1:{port}")

    def localize_settings(self) -> None:
        """Localize the settings, and set ports that are the defaults on the pages; the tests share their queues."""
        file = self.letters / ".env"
        queue = f"QUEUE_NAME=letters-{self.localize(APP_PORT)}\n"
        file.write_text(self.localize(f"{file.read_text()}SUBMITTER_PORT=8080\nNOTIFIER_PORT=8081\n{queue}"))

    @asynccontextmanager
    async def terminal(self, name: str, *, path: str = "/usr/bin:/bin", **env: str) -> AsyncIterator[Terminal]:
        """Open a terminal with these programs on its path, besides those of a new user."""
        path = f"{self.folder / 'bin'}:{path}"
        async with open_terminal(self.folder, self.folder / f"{name}.log", PATH=path, **env) as terminal:
            yield terminal

    @asynccontextmanager
    async def installed_terminal(self, name: str) -> AsyncIterator[Terminal]:
        """Open a terminal in the user's folder that has Headway and its packages without an installation."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        async with self.terminal(name, path=path, PYTHONPATH=str(ROOT)) as terminal:
            await terminal.run("cd letters")
            yield terminal
