"""The system of compose.yaml in containers, and watchers that connect to it through the proxy."""

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
from tests.waiting import PATIENCE_S, free_ports, wait_until

BASE_IMAGE = "python:3.13-slim-trixie"
IMAGE_VERSION = "test"
# All but Grafana, which the tests do not need. The submitter and the notifier are dependencies of the proxy.
STARTED_SERVICES = ("edge", "worker", "prometheus")
LEASE_S = 5
UP_INTERVAL_S = 1  # between attempts to start the containers
OVERRIDE = f"services: {{worker: {{environment: {{LEASE_S: {LEASE_S}}}}}}}\n"
# Python code that prints the metrics of the service in its container.
PRINT_METRICS = """
import sys, urllib.request
sys.stdout.buffer.write(urllib.request.urlopen("http://127.0.0.1:9090/metrics").read())
"""


class DockerError(Exception):
    """A docker command has failed; the message is the end of what it printed."""


def docker(*arguments: str, text: str | None = None, timeout_s: float = 300, env: dict[str, str] | None = None) -> str:
    """Run a docker command and return its output; raise DockerError if it fails."""
    completed = subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        env=os.environ | (env or {}),
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    if completed.returncode != 0:
        raise DockerError(f"docker {' '.join(arguments)}\n{completed.stdout[-4000:]}{completed.stderr[-4000:]}")
    return completed.stdout


@dataclass
class System:
    """A running system of containers, with its own compose project and ports."""

    url: str  # of the proxy
    prometheus_url: str
    compose_options: tuple[str, ...]
    environment: dict[str, str]
    session: aiohttp.ClientSession

    def compose(self, *arguments: str) -> str:
        """Run a compose command and return its output."""
        return docker("compose", *self.compose_options, *arguments, env=self.environment)

    async def up(self, *options: str, notifiers: int = 3, workers: int = 2) -> None:
        """Start the containers that are not running, and wait until all are healthy.

        `docker compose up --wait` fails at once if a container is unhealthy, even one that its next check will find
        healthy, such as the proxy after a restart of all notifiers. Therefore it is repeated.
        """
        scale = (f"--scale=notifier={notifiers}", f"--scale=worker={workers}")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                await asyncio.to_thread(self.compose, "up", "--detach", "--wait", *scale, *options, *STARTED_SERVICES)
            except DockerError as error:
                if "is unhealthy" not in str(error) or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(UP_INTERVAL_S)
            else:
                return

    def replicas(self, service: str) -> list[str]:
        """Return the ids of a service's running containers."""
        return self.compose("ps", "--quiet", "--status=running", service).split()

    def metrics(self, container: str) -> str:
        """Return the metrics of the service in a container."""
        return docker("exec", container, "python", "-c", PRINT_METRICS)

    def websocket_count(self, container: str) -> int:
        """Return the number of open WebSockets of a notifier."""
        (line,) = [
            line for line in self.metrics(container).splitlines() if 'connections{transport="websocket"}' in line
        ]
        return int(float(line.split()[-1]))

    async def submit(self, kind: str = "countdown", **payload: Any) -> dict[str, Any]:
        """Submit a job through the proxy and return the receipt."""
        body = {"kind": kind, "payload": payload}
        async with self.session.post(f"{self.url}/jobs", json=body) as response:
            receipt: dict[str, Any] = await response.json()
            assert response.status == 202, receipt
            return receipt


def build_image(version: str, tree: Path = ROOT) -> None:
    """Build the image of a source tree."""
    docker("build", "--network=host", "--quiet", f"--tag=headway:{version}", str(tree), timeout_s=900)


@asynccontextmanager
async def run_system(
    folder: Path,
    override_text: str = OVERRIDE,
    *,
    tree: Path = ROOT,
    version: str = IMAGE_VERSION,
    workers: int = 2,
) -> AsyncIterator[System]:
    """Build the image and run the system until the block ends; write the containers' logs to `folder`.

    Args:
        folder: a folder for the override file and the logs.
        override_text: overrides compose.yaml.
        tree: the source tree with the Dockerfile and compose.yaml.
        version: the tag of the image.
        workers: the number of workers.
    """
    build_image(version, tree)
    override = folder / "override.yaml"
    override.write_text(override_text)
    port, prometheus_port = map(str, free_ports(2))
    environment = {"HEADWAY_PORT": port, "PROMETHEUS_PORT": prometheus_port, "HEADWAY_VERSION": version}
    files = (f"--project-directory={tree}", f"--file={tree}/compose.yaml", f"--file={override}")
    options = (f"--project-name=headway-{port}", "--profile=monitoring", *files)
    url, prometheus_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{prometheus_port}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        system = System(url, prometheus_url, options, environment, session)
        try:
            await system.up(workers=workers)
            yield system
        finally:
            (folder / "logs").write_text(system.compose("logs", "--no-color"))
            system.compose("down", "--volumes", "--timeout=1")


@dataclass
class Watcher:
    """A client that watches a job, reconnects after each close, and records what it receives."""

    system: System
    token: str
    statuses: list[str] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    closes: list[tuple[float, int | None]] = field(default_factory=list)  # monotonic time and close code
    connected: bool = False

    async def watch(self) -> None:
        """Watch the job until cancelled."""
        url = self.system.url.replace("http", "ws", 1) + "/live"
        while True:
            try:
                async with self.system.session.ws_connect(url, heartbeat=10) as socket:
                    await socket.send_json({"watch": self.token, "version": max(self.versions, default=0)})
                    async for message in socket:
                        self._on_message(json.loads(message.data))
                    self.closes.append((time.monotonic(), socket.close_code))
            except aiohttp.ClientError:
                pass
            self.connected = False
            await asyncio.sleep(0.1)

    def _on_message(self, message: dict[str, Any]) -> None:
        if "job" in message:
            self.statuses.append(message["job"]["status"])
            self.versions.append(message["job"]["version"])
            assert self.versions == sorted(self.versions)
        self.connected = True


@asynccontextmanager
async def watching(system: System, token: str, count: int) -> AsyncIterator[list[Watcher]]:
    """Watch a job with many watchers until the block ends; versions must never go back for any of them."""
    watchers = [Watcher(system, token) for _ in range(count)]
    tasks = [asyncio.create_task(watcher.watch()) for watcher in watchers]
    try:
        await wait_until(lambda: all(watcher.connected for watcher in watchers))
        yield watchers
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [result for result in results if isinstance(result, AssertionError)]


def all_have_status(watchers: Sequence[Watcher], status: str) -> bool:
    """Return whether the last snapshot of every watcher has this status."""
    return all(watcher.statuses[-1:] == [status] for watcher in watchers)


def count_per_second(times_s: Sequence[float]) -> Counter[int]:
    """Count the times in each second since the first of them."""
    return Counter(int(time_s - min(times_s)) for time_s in times_s)
