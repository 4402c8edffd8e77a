"""The notifier's memory stays constant while watchers connect and disconnect for a long time.

Connections must not be part of reference cycles: objects that live long reach the oldest generation of the garbage
collector, which it rarely collects.

Long form, of 1,000 watchers for ten minutes:
MEMORY_S=600 make test ARGS="tests/integration/test_memory.py --log-level=INFO -rP"
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from headway.contracts import Timestamp
from tests.integration.conftest import Notifier, new_id, report, running_notifier
from tests.integration.load_watchers import WATCHER_TYPES, WatchedJob, Watcher
from tests.waiting import PATIENCE_S, wait_until

log = logging.getLogger(__name__)

DURATION_S = float(os.environ.get("MEMORY_S") or 10)
SEED = int(os.environ.get("MEMORY_SEED") or 1)
LONG_FORM = DURATION_S >= 60
WATCHERS = 1_000 if LONG_FORM else 100
WARM_UP_S = min(120.0, 0.4 * DURATION_S)
REPLACEMENTS_PER_S = 50  # watchers that leave, each replaced by a new one
MAX_CHANGE = 0.05 if LONG_FORM else 0.015  # of the memory after the warm-up, as a fraction
MEASUREMENTS = 8 if LONG_FORM else 3
SAMPLES, SAMPLE_INTERVAL_S = 5, 0.05  # of one measurement
RESUBSCRIBING_CLIENTS = 4  # each of which subscribes and unsubscribes REPLACEMENTS_PER_S times per second
TOKEN_TTL_S = 86_400


class ChangingWatchers:
    """A constant number of watchers, each of a different job, that are replaced one by one."""

    def __init__(self, notifier: Notifier, seed: int) -> None:
        self.started = 0
        self._notifier = notifier
        self._random = random.Random(seed)
        self._running: list[tuple[Watcher, asyncio.Task[None]]] = []
        self._types: Iterator[Callable[[WatchedJob, int], Watcher]] = itertools.cycle(WATCHER_TYPES)
        self._port = int(notifier.public.rpartition(":")[2])

    async def add_watcher(self) -> None:
        """Start a watcher, and report on its job."""
        job = WatchedJob(new_id(), "")
        job.token = self._notifier.token(job.id, ttl_s=TOKEN_TTL_S)
        watcher = next(self._types)(job, self._port)
        self._running.append((watcher, asyncio.create_task(watcher.run())))
        self.started += 1
        fields = {"progress": {"current": 1}, "sent_at": str(Timestamp.now())}
        await self._notifier.report(report(job.id, 1, **fields))

    async def remove_watcher(self) -> None:
        """Stop a random watcher when it has received its job; assert that it has seen no violation of the protocol."""
        watcher, task = self._running.pop(self._random.randrange(len(self._running)))
        await wait_until(lambda: watcher.version)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert watcher.problems == []

    async def replace(self, seconds: float) -> None:
        """Replace watchers at a constant rate for some seconds."""
        started_at = time.monotonic()
        for number in range(round(seconds * REPLACEMENTS_PER_S)):
            await asyncio.sleep(started_at + number / REPLACEMENTS_PER_S - time.monotonic())
            await self.remove_watcher()
            await self.add_watcher()

    @classmethod
    @asynccontextmanager
    async def run(cls, notifier: Notifier, count: int, seed: int) -> AsyncIterator[ChangingWatchers]:
        """Run watchers until the block ends."""
        watchers = cls(notifier, seed)
        for _ in range(count):
            await watchers.add_watcher()
        try:
            yield watchers
        finally:
            while watchers._running:
                await watchers.remove_watcher()


async def resubscribe(notifier: Notifier) -> None:
    """Subscribe and unsubscribe over one WebSocket, until cancelled."""
    async with notifier.socket() as socket:
        while True:
            job_id = new_id()
            await socket.send_json({"watch": notifier.token(job_id, ttl_s=TOKEN_TTL_S)})
            assert (await socket.receive_json(timeout=PATIENCE_S))["job"]["id"] == job_id
            await socket.send_json({"unwatch": job_id})
            await socket.send_json({"watch": "no token"})
            assert (await socket.receive_json(timeout=PATIENCE_S))["error"]["code"] == "invalid_token"
            await asyncio.sleep(1 / REPLACEMENTS_PER_S)


async def measure_memory_mb(notifier: Notifier) -> float:
    """Return the notifier's resident memory, the median of several samples."""
    samples = []
    for _ in range(SAMPLES):
        samples.append(await _resident_kb(notifier.process.pid) / 1024)
        await asyncio.sleep(SAMPLE_INTERVAL_S)
    return statistics.median(samples)


async def _resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:")).split()[1])
    # macOS has no /proc.
    process = await asyncio.create_subprocess_exec("ps", "-o", "rss=", "-p", str(pid), stdout=asyncio.subprocess.PIPE)
    return int((await process.communicate())[0])


@asynccontextmanager
async def notifier_with_resubscribing_clients(stores: dict[str, str], keys: Path) -> AsyncIterator[Notifier]:
    """Run a notifier; at the end of the block it must have no connection and no watched job left."""
    async with running_notifier(stores, keys) as notifier:
        clients = [asyncio.create_task(resubscribe(notifier)) for _ in range(RESUBSCRIBING_CLIENTS)]
        try:
            yield notifier
        finally:
            for client in clients:
                client.cancel()
            results = await asyncio.gather(*clients, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}

        async def nothing_left() -> bool:
            return [await notifier.metric(f"notifier_{name}") for name in ("watched_jobs", "connections")] == [0, 0]

        await wait_until(nothing_left)


@pytest.mark.timeout(2 * DURATION_S + 300)
@pytest.mark.parametrize("seed", [SEED], ids="MEMORY_SEED={}".format)
async def test_memory_stays_constant(stores: dict[str, str], tmp_path: Path, seed: int) -> None:
    """Watchers that disconnect leave no memory, no watched job and no connection behind."""
    async with (
        notifier_with_resubscribing_clients(stores, tmp_path / "keys") as notifier,
        ChangingWatchers.run(notifier, WATCHERS, seed) as watchers,
    ):
        await watchers.replace(WARM_UP_S)
        before = after = await measure_memory_mb(notifier)
        for _ in range(MEASUREMENTS):
            await watchers.replace((DURATION_S - WARM_UP_S) / MEASUREMENTS)
            after = await measure_memory_mb(notifier)
            log.info("%d watchers started: %.1f MB, %+.2f %%", watchers.started, after, 100 * (after / before - 1))
        assert abs(after / before - 1) <= MAX_CHANGE, f"{before:.1f} MB after the warm-up, {after:.1f} MB at the end"
