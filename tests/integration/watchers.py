"""A client that watches many jobs over one WebSocket, reconnects after a loss, and records every snapshot."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from tests.stack import ENDED, Stack
from tests.waiting import PATIENCE_S

Snapshot = dict[str, Any]
RECONNECT_PAUSE_S = 0.1  # between two attempts to connect


class JobsWatcher:
    """Watches jobs and records the snapshots of each job in the order of their arrival."""

    def __init__(self, stack: Stack) -> None:
        self.snapshots: dict[str, list[Snapshot]] = defaultdict(list)
        self.connections = 0
        self._stack = stack
        self._receipts: list[dict[str, Any]] = []
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._changed = asyncio.Event()

    async def watch(self, receipt: dict[str, Any]) -> None:
        """Watch another job."""
        self._receipts.append(receipt)
        if self._socket is not None:
            await self._subscribe(self._socket, receipt)

    def last(self, job_id: str) -> Snapshot:
        """Return the last snapshot of a job."""
        return self.snapshots[job_id][-1]

    def status(self, job_id: str) -> str | None:
        """Return a job's last status, None before its first snapshot."""
        return self.snapshots[job_id][-1]["status"] if self.snapshots[job_id] else None

    def with_status(self, *statuses: str) -> set[str]:
        """Return the ids of the jobs whose last status is one of these."""
        return {receipt["id"] for receipt in self._receipts if self.status(receipt["id"]) in statuses}

    async def wait_for_status(self, job_ids: set[str], *statuses: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the last status of each of these jobs is one of these."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not job_ids <= self.with_status(*statuses):
                    self._changed.clear()
                    await self._changed.wait()
        missing = {job_id: self.status(job_id) for job_id in job_ids - self.with_status(*statuses)}
        assert not missing, f"not {statuses} within {timeout_s} s: {missing}"

    async def run(self) -> None:
        """Watch until the task is cancelled."""
        while True:
            with suppress(aiohttp.ClientError, OSError):
                async with self._stack.session.ws_connect(f"{self._stack.env['LIVE_URL']}/live") as socket:
                    self.connections += 1
                    for receipt in self._receipts:  # the loop includes jobs that are added meanwhile
                        await self._subscribe(socket, receipt)
                    self._socket = socket
                    async for message in socket:
                        self._on_message(message.json())
            self._socket = None
            await asyncio.sleep(RECONNECT_PAUSE_S)

    def _on_message(self, message: dict[str, Any]) -> None:
        if (job := message.get("job")) is not None:
            self.snapshots[job["id"]].append(job)
            self._changed.set()
        assert message.get("error", {"code": "unknown"})["code"] == "unknown", message

    async def _subscribe(self, socket: aiohttp.ClientWebSocketResponse, receipt: dict[str, Any]) -> None:
        snapshots = self.snapshots[receipt["id"]]
        version = {"version": snapshots[-1]["version"]} if snapshots and snapshots[-1]["version"] else {}
        with suppress(ConnectionError):  # the connection is closing; the next one subscribes again
            await socket.send_json({"watch": receipt["token"], **version})

    def violations(self) -> list[str]:
        """Return a description of each decrease of a version and of each change of an ended job."""
        return [
            f"{job_id}: {[(job['version'], job['status']) for job in (before, after)]}"
            for job_id, jobs in self.snapshots.items()
            for before, after in itertools.pairwise(jobs)
            if before["version"] > after["version"] or (before["status"] in ENDED and before != after)
        ]

    def progress_violations(self) -> list[str]:
        """Return a description of each decrease of the progress within an attempt."""
        return [
            f"{job_id}: {[(job['status'], job['attempt'], job['progress']) for job in (before, after)]}"
            for job_id, jobs in self.snapshots.items()
            for before, after in itertools.pairwise(jobs)
            if before["attempt"] == after["attempt"] and before["progress"]
            if not after["progress"] or after["progress"]["current"] < before["progress"]["current"]
        ]


@asynccontextmanager
async def watch_jobs(stack: Stack) -> AsyncIterator[JobsWatcher]:
    """Run a watcher until the block ends."""
    watcher = JobsWatcher(stack)
    task = asyncio.create_task(watcher.run())
    try:
        yield watcher
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
