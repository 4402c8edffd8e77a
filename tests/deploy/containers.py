"""The system as compose.yaml has it, in containers, and those who watch it from outside."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from dev.environment import ROOT
from tests.waiting import free_ports, wait_until

BASE = "python:3.13-slim-trixie"
VERSION = "test"
LEASE_S = 5
OVERRIDE = f"services: {{worker: {{environment: {{LEASE_S: {LEASE_S}}}}}}}\n"
ASK = "import sys, urllib.request as ask; sys.stdout.buffer.write(ask.urlopen('http://127.0.0.1:9090/metrics').read())"


def docker(*words: str, text: str | None = None, timeout_s: float = 300, env: dict[str, str] | None = None) -> str:
    """Run a docker command and return what it says; what goes wrong is an error."""
    told = subprocess.run(
        ["docker", *words],
        cwd=ROOT,
        env=os.environ | (env or {}),
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert told.returncode == 0, f"docker {' '.join(words)}\n{told.stdout[-4000:]}{told.stderr[-4000:]}"
    return told.stdout


@dataclass
class System:
    """A running system of containers, of a project and on ports of its own."""

    url: str
    prometheus: str
    files: tuple[str, ...]
    environment: dict[str, str]
    session: aiohttp.ClientSession

    def compose(self, *words: str) -> str:
        """Run a compose command."""
        return docker("compose", *self.files, *words, env=self.environment)

    def up(self, *more: str, notifiers: int = 3, workers: int = 2) -> None:
        """Start what does not run, and wait until it is healthy."""
        self.compose("up", "--detach", "--wait", f"--scale=notifier={notifiers}", f"--scale=worker={workers}", *more)

    def replicas(self, service: str) -> list[str]:
        """Return the ids of a service's running containers."""
        return self.compose("ps", "--quiet", "--status=running", service).split()

    def metrics(self, container: str) -> str:
        """Return what a service's container tells Prometheus."""
        return docker("exec", container, "python", "-c", ASK)

    def connections(self, container: str) -> int:
        """Return how many sockets a notifier has."""
        (line,) = [
            line for line in self.metrics(container).splitlines() if 'connections{transport="websocket"}' in line
        ]
        return int(float(line.split()[-1]))

    async def submit(self, kind: str = "countdown", **payload: Any) -> dict[str, Any]:
        """Submit a job through the proxy."""
        body = {"kind": kind, "payload": payload}
        async with self.session.post(f"{self.url}/jobs", json=body) as response:
            receipt: dict[str, Any] = await response.json()
            assert response.status == 202, receipt
            return receipt


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[System]:
    """Build the image and run the system until the block ends."""
    docker("build", "--network=host", "--quiet", f"--tag=headway:{VERSION}", ".", timeout_s=900)
    override = folder / "override.yaml"
    override.write_text(OVERRIDE)
    port, prometheus = map(str, free_ports(2))
    environment = {"HEADWAY_PORT": port, "PROMETHEUS_PORT": prometheus, "HEADWAY_VERSION": VERSION}
    files = (f"--project-name=headway-{port}", "--profile=monitoring", "--file=compose.yaml", f"--file={override}")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        system = System(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{prometheus}", files, environment, session)
        try:
            system.up()
            yield system
        finally:
            (folder / "logs").write_text(system.compose("logs", "--no-color"))
            system.compose("down", "--volumes", "--timeout=1")


@dataclass
class Watcher:
    """A browser, as it were: it comes back whenever it is closed, and keeps what it has seen."""

    system: System
    token: str
    statuses: list[str] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    closings: list[tuple[float, int | None]] = field(default_factory=list)
    connected: bool = False

    async def watch(self) -> None:
        """Watch for ever."""
        url = self.system.url.replace("http", "ws", 1) + "/live"
        while True:
            try:
                async with self.system.session.ws_connect(url, heartbeat=10) as socket:
                    await socket.send_json({"watch": self.token, "version": max(self.versions, default=0)})
                    async for message in socket:
                        self._take(json.loads(message.data))
                    self.closings.append((time.monotonic(), socket.close_code))
            except aiohttp.ClientError:
                pass
            self.connected = False
            await asyncio.sleep(0.1)

    def _take(self, message: dict[str, Any]) -> None:
        if "job" in message:
            self.statuses.append(message["job"]["status"])
            self.versions.append(message["job"]["version"])
            assert self.versions == sorted(self.versions)
        self.connected = True


@asynccontextmanager
async def watching(system: System, token: str, count: int) -> AsyncIterator[list[Watcher]]:
    """Watch a job with many watchers during the block."""
    watchers = [Watcher(system, token) for _ in range(count)]
    tasks = [asyncio.create_task(watcher.watch()) for watcher in watchers]
    try:
        await wait_until(lambda: all(watcher.connected for watcher in watchers), 60)
        yield watchers
    finally:
        for task in tasks:
            task.cancel()
        assert not [
            task for task in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(task, AssertionError)
        ]


def all_saw(watchers: Sequence[Watcher], status: str) -> bool:
    """Tell whether every watcher's last snapshot has this status."""
    return all(watcher.statuses[-1:] == [status] for watcher in watchers)


def by_second(moments: Sequence[float]) -> Counter[int]:
    """Count what happened in each second after the first."""
    return Counter(int(moment - min(moments)) for moment in moments)
