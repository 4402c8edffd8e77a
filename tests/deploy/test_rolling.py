"""`make roll`: the replicas of a compose system are replaced while jobs run and a crowd watches them."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dev.environment import ROOT
from tests.deploy.containers import IMAGE_VERSION, System, build_image, run_system
from tests.deploy.documented_clients import RECONNECT_S, Client, WebSocketClient, measured_pause, watching_clients
from tests.integration.release_0_1 import extract_files
from tests.waiting import wait_until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1200)]

SOCKETS, STREAMS, JOBS = 240, 60, 4
MAX_SILENCE_S = 2.0
HOPS = 5  # processes through which an update comes: the worker, a notifier, Redis, a notifier and the proxy
RECONNECT_0_1_S = 1.0  # docs/watching.md of version 0.1: "a random pause of a second or so"
ROLL_TIMEOUT_S = 600
REPLICAS = {"notifier": 3, "worker": 3, "submitter": 1}
SUBMIT_INTERVAL_S = 0.5
OVERRIDE = """
services:
  worker:
    environment: {{WORKER_JOBS: rolling_jobs}}
    volumes: ["{folder}/rolling_jobs.py:/opt/headway/app/rolling_jobs.py:ro", "{folder}/flags:/flags:ro"]
"""


@dataclass
class Rolled:
    """A system that is rolled, and the folder of its jobs."""

    system: System
    folder: Path
    submitted: list[dict[str, Any]] = field(default_factory=list)

    def compose_environment(self, *more: Path) -> dict[str, str]:
        """Return the environment in which docker compose finds the system, as this version of compose.yaml has it."""
        files = (ROOT / "compose.yaml", self.folder / "override.yaml", *more)
        project = self.system.compose_options[0].partition("=")[2]
        return {
            **os.environ,
            **self.system.environment,
            "HEADWAY_VERSION": IMAGE_VERSION,
            "COMPOSE_FILE": ":".join(map(str, files)),
            "COMPOSE_PROJECT_NAME": project,
        }

    async def start_roll(self, *services: str, override: Path | None = None) -> asyncio.subprocess.Process:
        """Start `make roll` in a process group of its own, for all services or some, with a further override file."""
        return await asyncio.create_subprocess_exec(
            "make",
            "roll",
            f"ARGS={' '.join(services)}",
            cwd=ROOT,
            env=self.compose_environment(*filter(None, [override])),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )

    def replicas(self) -> dict[str, set[str]]:
        """Return the ids of the running containers of each service."""
        return {service: set(self.system.replicas(service)) for service in REPLICAS}

    async def submit_short_jobs(self) -> None:
        """Submit a job twice a second until cancelled; each must be accepted."""
        while True:
            self.submitted.append(await self.system.submit("short"))
            await asyncio.sleep(SUBMIT_INTERVAL_S)

    async def outcome(self, receipt: dict[str, Any]) -> tuple[str, int]:
        """Wait for the end of a job; return its status and its attempt."""
        snapshot: dict[str, Any] = {}

        async def ended() -> bool:
            headers = {"Authorization": f"Bearer {receipt['token']}"}
            url = f"{self.system.url}/live/jobs/{receipt['id']}"
            async with self.system.session.get(url, headers=headers) as response:
                snapshot.update(await response.json())
            return snapshot["finished_at"] is not None

        await wait_until(ended)
        return snapshot["status"], snapshot["attempt"]


@asynccontextmanager
async def run(folder: Path, **options: Any) -> AsyncIterator[Rolled]:
    """Run three notifiers, three workers and a submitter until the block ends."""
    shutil.copy(ROOT / "tests/deploy/rolling_jobs.py", folder)
    (folder / "flags").mkdir()
    async with run_system(folder, OVERRIDE.format(folder=folder), workers=3, **options) as system:
        yield Rolled(system, folder)


@pytest.fixture(scope="module")
async def rolled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rolled]:
    """Run this version."""
    async with run(tmp_path_factory.mktemp("rolling")) as rolled:
        yield rolled


def docker_logs(name: str) -> str:
    """Return what a container has written."""
    completed = subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=True)
    return completed.stdout + completed.stderr


async def roll_under_load(rolled: Rolled, reconnect_s: float = RECONNECT_S) -> tuple[list[Client], float]:
    """Roll the system while jobs run, are submitted and are watched, until these have ended.

    Return the clients, and the silence that they may have had, in seconds. On a busy machine that is longer: each
    process on the way of an update may have to wait for a CPU as long as this one had to. Clients wait up to
    `reconnect_s` before they connect again, unless the server asks for another delay.
    """
    finish = rolled.folder / "flags/finish"
    receipts = [await rolled.system.submit("walk", finish="/flags/finish") for _ in range(JOBS)]
    before = await asyncio.to_thread(rolled.replicas)
    watching = watching_clients(rolled.system, receipts, SOCKETS, STREAMS, reconnect_s)
    async with measured_pause() as pause, watching as clients:
        submitting = asyncio.create_task(rolled.submit_short_jobs())
        roll = await rolled.start_roll()
        output, _ = await asyncio.wait_for(roll.communicate(), ROLL_TIMEOUT_S)
        assert roll.returncode == 0, output.decode()
        assert not submitting.done()
        submitting.cancel()
        finish.touch()
    finish.unlink()
    after = await asyncio.to_thread(rolled.replicas)
    assert {service: len(ids) for service, ids in after.items()} == REPLICAS
    assert all(not before[service] & after[service] for service in REPLICAS)
    all_ids = await asyncio.to_thread(rolled.system.compose, "ps", "--all", "--quiet", *REPLICAS)
    assert len(all_ids.split()) == sum(REPLICAS.values())
    outcomes = [await rolled.outcome(receipt) for receipt in (*receipts, *rolled.submitted)]
    assert set(outcomes) == {("succeeded", 1)}
    return clients, MAX_SILENCE_S + HOPS * pause.longest_s


async def test_roll_interrupts_no_watcher_and_no_job(rolled: Rolled) -> None:
    """All replicas are replaced; no watcher is without news for more than 2 s, and no job loses an attempt."""
    clients, limit_s = await roll_under_load(rolled)
    assert max(client.silence_s for client in clients) <= limit_s


async def test_upgrade_from_0_1_interrupts_no_watcher_and_no_job(tmp_path: Path) -> None:
    """All replicas of version 0.1 become replicas of this version; what watchers and jobs notice is as above.

    An event stream of 0.1 may ask its client to wait for 2 s, which the system cannot shorten.
    """
    tree = tmp_path / "tree"
    extract_files(tree)
    build_image(IMAGE_VERSION)
    async with run(tmp_path, tree=tree, version="0.1-test") as rolled:
        clients, limit_s = await roll_under_load(rolled, RECONNECT_0_1_S)
    assert max(client.silence_s for client in clients if isinstance(client, WebSocketClient)) <= limit_s
    assert max(client.silence_s - client.waited_s for client in clients) <= limit_s


async def test_roll_stops_at_a_replica_that_does_not_become_healthy(rolled: Rolled, tmp_path: Path) -> None:
    """It names the container whose log says why, and leaves the replicas that it has not replaced."""
    before = rolled.replicas()
    override = tmp_path / "override.yaml"
    override.write_text("services: {notifier: {environment: {MAX_CONNECTIONS: none}}}\n")
    roll = await rolled.start_roll(override=override)
    output, _ = await asyncio.wait_for(roll.communicate(), ROLL_TIMEOUT_S)
    assert roll.returncode != 0
    (name,) = re.findall(r"does not become healthy: see docker logs (\S+)", output.decode())
    assert "invalid settings" in await asyncio.to_thread(docker_logs, name)
    assert rolled.replicas() == before


async def test_interrupted_roll_leaves_the_number_of_replicas(rolled: Rolled) -> None:
    """After Ctrl-C a replica that is not in use yet is removed."""
    before = rolled.replicas()
    roll = await rolled.start_roll("worker")
    assert roll.stdout is not None
    while not (line := await roll.stdout.readline()).endswith(b" starts\n"):
        assert line
    os.killpg(roll.pid, signal.SIGINT)
    output, _ = await asyncio.wait_for(roll.communicate(), ROLL_TIMEOUT_S)
    assert b"run it again" in output
    assert roll.returncode != 0
    assert rolled.replicas() == before
