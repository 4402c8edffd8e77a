"""Watchers come and go for a long time, and the notifier's memory stays what it was once it had warmed up.

Connections must not be left in cycles: those that live long grow so old that the collector hardly ever looks at them.

The long form, of 1,000 watchers for ten minutes, is
`MEMORY_S=600 make test ARGS="tests/integration/test_memory.py --log-level=INFO -rP"`.
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
from tests.waiting import wait_until

log = logging.getLogger(__name__)

TOTAL_S = float(os.environ.get("MEMORY_S") or 10)
SEED = int(os.environ.get("MEMORY_SEED") or 1)
LONG = TOTAL_S >= 60
WATCHERS = 1_000 if LONG else 100
WARM_S = min(120.0, 0.4 * TOTAL_S)
A_SECOND = 50  # watchers that leave, and as many that join
SHARE = 0.05 if LONG else 0.015  # that memory may differ by from the end of the warm-up to the end
LOOKS = 8 if LONG else 3
SAMPLES, SAMPLE_S = 5, 0.05
SOCKETS = 4  # on each of which jobs are watched and unwatched as fast as watchers come and go
DAY_S = 86_400


class Guests:
    """Watchers who stay for a while, each of a job of its own that is reported on when they come."""

    def __init__(self, notifier: Notifier, seed: int) -> None:
        self.joined = 0
        self._notifier = notifier
        self._random = random.Random(seed)
        self._here: list[tuple[Watcher, asyncio.Task[None]]] = []
        self._kinds: Iterator[Callable[[WatchedJob, int], Watcher]] = itertools.cycle(WATCHER_TYPES)
        self._port = int(notifier.public.rpartition(":")[2])

    async def join(self) -> None:
        """Have one more, and report on its job."""
        job = WatchedJob(new_id(), "")
        job.token = self._notifier.token(job.id, ttl_s=DAY_S)
        watcher = next(self._kinds)(job, self._port)
        self._here.append((watcher, asyncio.create_task(watcher.run())))
        self.joined += 1
        more = {"progress": {"current": 1}, "sent_at": str(Timestamp.now())}
        await self._notifier.report(report(job.id, 1, **more))

    async def leave(self) -> None:
        """Have one of them leave, whoever it is; it must have seen its job by then."""
        watcher, task = self._here.pop(self._random.randrange(len(self._here)))
        await wait_until(lambda: watcher.version)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert watcher.problems == []

    async def change(self, seconds: float) -> None:
        """Have them come and go for so long."""
        began = time.monotonic()
        for number in range(round(seconds * A_SECOND)):
            await asyncio.sleep(began + number / A_SECOND - time.monotonic())
            await self.leave()
            await self.join()

    @classmethod
    @asynccontextmanager
    async def of(cls, notifier: Notifier, count: int, seed: int) -> AsyncIterator[Guests]:
        """Have so many of them until the block ends."""
        guests = cls(notifier, seed)
        for _ in range(count):
            await guests.join()
        try:
            yield guests
        finally:
            while guests._here:
                await guests.leave()


async def watch_and_unwatch(notifier: Notifier) -> None:
    """Join and leave on one connection, for ever."""
    async with notifier.socket() as socket:
        while True:
            job_id = new_id()
            await socket.send_json({"watch": notifier.token(job_id, ttl_s=DAY_S)})
            assert (await socket.receive_json(timeout=10))["job"]["id"] == job_id
            await socket.send_json({"unwatch": job_id})
            await socket.send_json({"watch": "no token"})
            assert (await socket.receive_json(timeout=10))["error"]["code"] == "invalid_token"
            await asyncio.sleep(1 / A_SECOND)


async def resident_mb(notifier: Notifier) -> float:
    """Measure the notifier's resident memory, as the median of a few looks."""
    found = []
    for _ in range(SAMPLES):
        found.append(await _resident_kb(notifier.process.pid) / 1024)
        await asyncio.sleep(SAMPLE_S)
    return statistics.median(found)


async def _resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status")  # where there is none, as on macOS, there is a ps
    if status.exists():
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:")).split()[1])
    process = await asyncio.create_subprocess_exec("ps", "-o", "rss=", "-p", str(pid), stdout=asyncio.subprocess.PIPE)
    return int((await process.communicate())[0])


@asynccontextmanager
async def measured(stores: dict[str, str], keys: Path) -> AsyncIterator[Notifier]:
    """Run a notifier; once all have left, it must know of nobody."""
    async with running_notifier(stores, keys) as notifier:
        flickers = [asyncio.create_task(watch_and_unwatch(notifier)) for _ in range(SOCKETS)]
        try:
            yield notifier
        finally:
            for flicker in flickers:
                flicker.cancel()
            ends = await asyncio.gather(*flickers, return_exceptions=True)
        assert {type(end) for end in ends} == {asyncio.CancelledError}

        async def nothing_left() -> bool:
            return [await notifier.metric(f"notifier_{name}") for name in ("watched_jobs", "connections")] == [0, 0]

        await wait_until(nothing_left)


@pytest.mark.timeout(2 * TOTAL_S + 120)
@pytest.mark.parametrize("seed", [SEED], ids="MEMORY_SEED={}".format)
async def test_memory_stays_flat(stores: dict[str, str], tmp_path: Path, seed: int) -> None:
    """What comes and goes leaves nothing behind: not in memory, and neither a watched job nor a connection."""
    async with measured(stores, tmp_path / "keys") as notifier, Guests.of(notifier, WATCHERS, seed) as guests:
        await guests.change(WARM_S)
        before = after = await resident_mb(notifier)
        for _ in range(LOOKS):
            await guests.change((TOTAL_S - WARM_S) / LOOKS)
            after = await resident_mb(notifier)
            log.info("%d have joined: %.1f MB, %+.2f %%", guests.joined, after, 100 * (after / before - 1))
        assert abs(after / before - 1) <= SHARE, f"{before:.1f} MB have become {after:.1f} MB"
