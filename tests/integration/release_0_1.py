"""Version 0.1 from the repository's history, and systems in which each service runs as 0.1 or as this version.

Version 0.1 runs in processes of its own, from its own tree. Nothing of it is imported into the process of the tests.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import sys
import uuid
import zipfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dev.environment import PORTS, ROOT, service, service_environment
from headway.azure.job_queue import JobQueue, QueueDepth
from tests.integration.conftest import unexpected_errors
from tests.integration.watchers import JobsWatcher
from tests.stack import Stack
from tests.waiting import PATIENCE_S, free_ports, is_ready, wait_until

COMMIT = "25f5635d11a1b2b352e6cd1c91ed3fec33e7c4cc"
OLD, NEW = "0.1", "current"
OTHER = {OLD: NEW, NEW: OLD}
SERVICES = ("notifier", "worker", "submitter")  # in the order of an upgrade
TIMEOUT_S = PATIENCE_S
Receipt = dict[str, Any]

# A module of an author's jobs, which both versions load unchanged. VERSION names the version that runs it.
JOBS = '''
import asyncio
import os
from pathlib import Path
from typing import Any

from headway import JobContext, Retry, job

VERSION = os.environ["VERSION"]


@job("echo")
async def echo(ctx: JobContext, payload: Any) -> Any:
    """Return the payload."""
    return payload


@job("mark")
async def mark(ctx: JobContext, path: str) -> None:
    """Append the job's id to a file."""
    with Path(path).open("a") as file:
        file.write(f"{ctx.job_id}\\n")


@job("wait")
async def wait(ctx: JobContext, payload: dict[str, Any]) -> dict[str, Any]:
    """Show progress until a file exists; return the versions that the checkpoint names, and the attempt."""
    ran = [*(ctx.checkpoint_value or []), VERSION]
    if payload["checkpoint"]:
        await ctx.checkpoint(ran)
    tick = 0
    while not Path(payload["finish"]).exists():
        tick += 1
        ctx.progress(tick, message=VERSION)
        await asyncio.sleep(0.1)
    with Path(payload["finish"]).open("a") as file:
        file.write(f"{ctx.job_id}\\n")
    return {"ran": ran, "attempt": ctx.attempt}


@job("third-attempt", max_attempts=3)
async def third_attempt(ctx: JobContext, payload: Any) -> list[int]:
    """Ask for another attempt after each of two checkpoints; return the attempts that the checkpoint names."""
    done = ctx.checkpoint_value or []
    if len(done) < 2:
        await ctx.checkpoint([*done, ctx.attempt])
        raise Retry("The album is locked.", after_s=0)
    return done


@job("only-on", max_attempts=1000)
async def only_on(ctx: JobContext, version: str) -> str:
    """Ask for another attempt until the named version runs this job."""
    if version != VERSION:
        raise Retry(f"This job needs {version}.", after_s=1)
    return VERSION
'''


class Trees:
    """The folder of each version's code, and the environment in which Python finds that code and the jobs."""

    def __init__(self, folder: Path) -> None:
        self.old = folder / "tree"
        self.jobs = folder / "jobs"
        self.jobs.mkdir()
        (self.jobs / "compatibility_jobs.py").write_text(JOBS)

    def launch(self, version: str, name: str, env: Mapping[str, str]) -> tuple[list[str], Path, dict[str, str]]:
        """Return the command, the working directory and the environment of a service."""
        if version == OLD:
            command, folder = [sys.executable, "-m", f"services.{name}"], self.old
            path = [str(self.old), str(self.jobs)]
        else:  # as in production: without --reload
            command, folder = [part for part in service(name, env).command if part != "--reload"], ROOT
            path = [str(self.jobs), *filter(None, [os.environ.get("PYTHONPATH")])]
        return command, folder, {**os.environ, **env, "PYTHONPATH": os.pathsep.join(path), "VERSION": version}


def extract_files(folder: Path, *paths: str) -> None:
    """Extract files of version 0.1 into a folder, all without `paths`; skip the test if the repository has no 0.1."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed: version 0.1 is taken from the repository's history")
    command = [git, "-C", str(ROOT)]
    lookup = subprocess.run([*command, "cat-file", "-e", f"{COMMIT}^{{commit}}"], capture_output=True, text=True)
    if lookup.returncode != 0:
        error = lookup.stderr.strip()
        pytest.skip(f"no commit {COMMIT[:7]} (version 0.1), as in a source archive or a shallow clone: {error}")
    command += ["archive", "--format=zip", COMMIT, *paths]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        files.extractall(folder)


def extract(folder: Path) -> Trees:
    """Extract version 0.1 into a folder; skip the test if the repository does not have it."""
    trees = Trees(folder)
    extract_files(trees.old, "headway", "services", "clients")
    _, cwd, env = trees.launch(OLD, "worker", {})
    probe = [sys.executable, "-c", "import headway, services; print(headway.__file__, services.__file__, sep='\\n')"]
    printed = subprocess.run(probe, cwd=cwd, env=env, capture_output=True, check=True, text=True).stdout
    assert all(Path(line).is_relative_to(trees.old) for line in printed.splitlines()), printed
    return trees


class Service:
    """A service that runs as one version at a time, at the same ports."""

    def __init__(self, name: str, system: System, trees: Trees) -> None:
        self._name = name
        self._system = system
        self._trees = trees
        self._process: asyncio.subprocess.Process | None = None
        self.log = system.folder / f"{name}.log"

    async def start(self, version: str) -> None:
        """Start the service as this version and wait until it is ready."""
        command, cwd, env = self._trees.launch(version, self._name, self._system.env)
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(*command, cwd=cwd, env=env, stdout=log, stderr=log)
        self._process = process

        async def ready_or_ended() -> bool:
            url = f"{self._system.internal(self._name)}/readyz"
            return process.returncode is not None or await is_ready(self._system.session, url, 2)

        await wait_until(ready_or_ended, TIMEOUT_S)
        assert process.returncode is None, self.log.read_text()[-4000:]

    async def stop(self) -> None:
        """Stop the service with SIGTERM, if it runs; the exit code must be 0."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            code = await asyncio.wait_for(self._process.wait(), TIMEOUT_S)
            assert code == 0, self.log.read_text()[-4000:]

    async def kill(self) -> None:
        """Kill the service if it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class System(Stack):
    """The three services over their own queue and a shared Redis, each of them as 0.1 or as this version."""

    def __init__(self, folder: Path, session: aiohttp.ClientSession, stores: Mapping[str, str], trees: Trees) -> None:
        super().__init__(folder, session)
        ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        settings = {**ports, "VALKEY_PORT": stores["VALKEY_PORT"], "AZURITE_PORT": stores["AZURITE_PORT"]}
        env = {
            **service_environment(folder, settings),
            "QUEUE_NAME": f"compatibility-{uuid.uuid4().hex[:12]}",
            "WORKER_JOBS": "compatibility_jobs",
            "LEASE_S": "20",
            "GRACE_S": "0",
            "DRAIN_S": "0.2",
            "POLL_MAX_S": "0.5",
            "SILENCE_S": "60",  # so that watchers get changes through publications, not through repeated reads
            "LOG_FORMAT": "json",
        }
        (folder / "env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
        self.services = {name: Service(name, self, trees) for name in SERVICES}

    @classmethod
    @asynccontextmanager
    async def running(
        cls, folder: Path, keys: Path, stores: Mapping[str, str], trees: Trees, **versions: str
    ) -> AsyncIterator[System]:
        """Run a system until the block ends; its logs must have no unexpected errors, its poison queue no messages."""
        folder.mkdir()
        (folder / "keys").symlink_to(keys)
        async with aiohttp.ClientSession() as session:
            system = cls(folder, session, stores, trees)
            services = system.services
            try:
                async with asyncio.TaskGroup() as group:
                    for name, version in versions.items():
                        group.create_task(services[name].start(version))
                yield system
                assert (await system.depth()).poison_messages == 0
                await asyncio.gather(*(service.stop() for service in services.values()))
            finally:
                await asyncio.gather(*(service.kill() for service in services.values()))
        errors = [error for service in services.values() for error in unexpected_errors(service.log)]
        assert not errors, "\n".join(errors)

    async def replace(self, name: str, version: str) -> None:
        """Stop a service and start it as this version, at the same address."""
        await self.services[name].stop()
        await self.services[name].start(version)

    async def submit_with_key(self, key: str, kind: str, payload: Any) -> Receipt:
        """Submit a job with an idempotency key; return the receipt."""
        body, headers = {"kind": kind, "payload": payload}, {"Idempotency-Key": key}
        async with self.session.post(f"{self.url}/jobs", json=body, headers=headers) as response:
            receipt: Receipt = await response.json()
            assert response.status == 202, receipt
            return receipt

    async def cancel_here(self, receipt: Receipt) -> dict[str, Any]:
        """Cancel a job of any submitter through this system's notifier; return the snapshot."""
        link = f"{self.env['LIVE_URL']}/live/jobs/{receipt['id']}/cancel"
        return await self.cancel({**receipt, "links": {"cancel": link}})

    async def depth(self) -> QueueDepth:
        """Return the number of messages on the queue and on its poison queue."""
        async with JobQueue.connect(self.env["QUEUE_CONNECTION_STRING"], self.env["QUEUE_NAME"]) as queue:
            return await queue.depth()

    async def is_empty(self) -> bool:
        """Return whether the queue has no messages."""
        return (await self.depth()).messages == 0

    async def submit_wait(self, finish: Path, *watchers: JobsWatcher, checkpoint: bool = True) -> Receipt:
        """Submit a job that runs until a file exists, and watch it; return the receipt."""
        return await self.submit_watched("wait", {"finish": str(finish), "checkpoint": checkpoint}, *watchers)

    async def submit_watched(self, kind: str, payload: Any, *watchers: JobsWatcher, **more: Any) -> Receipt:
        """Submit a job and watch it; return the receipt."""
        receipt = await self.submit(kind, payload, **more)
        for watcher in watchers:
            await watcher.watch(receipt)
        return receipt


async def progress_from(version: str, watchers: JobsWatcher, job_ids: Iterable[str]) -> None:
    """Wait until each job shows new progress from a worker of this version, twice.

    The first snapshot may be an older record that a notifier has read for a new subscription; the second is a new
    report.
    """
    since = {job_id: len(watchers.snapshots[job_id]) for job_id in job_ids}

    def versions(job_id: str) -> set[int]:
        snapshots = watchers.snapshots[job_id][since[job_id] :]
        return {job["version"] for job in snapshots if (job["progress"] or {}).get("message") == version}

    await wait_until(lambda: all(len(versions(job_id)) > 1 for job_id in since), TIMEOUT_S)
