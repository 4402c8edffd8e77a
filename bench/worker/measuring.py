"""A round: the CPU time per job, the start latency and the memory of each system's worker.

The same work takes more CPU time when other processes use the machine. Therefore the workers of all systems run side by
side, all but one of them paused, and take turns with a portion of the jobs each.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench.figures import percentile
from bench.worker.stores import Stores
from bench.worker.subject import Subject
from bench.worker.systems import IN_FLIGHT, System

PORTION = 250  # jobs on the queue at the same time: Azurite's cost per job grows with the length of the queue
PORTIONS = 4
IDLE_JOBS, IDLE_GAP_S = 15, (0.3, 1.3)
LOADED_JOBS, LOADED_PER_S = 150, 30
FLIGHT_S = 15.0

Measurements = list[tuple[str, str, float]]  # system, measure, value


async def measure(systems: Sequence[System], stores: Stores, folder: Path) -> Measurements:
    """Measure all systems once."""
    await stores.clear()
    small = [system for system in systems if "work" in system.steps]
    async with _running(small, stores, folder / "small") as subjects:
        measurements = await work(subjects)
        for subject in subjects:
            with subject.resumed():
                measurements += await idle(subject)
                measurements += await loaded(subject)
    await stores.clear()
    large = [system._replace(concurrency=IN_FLIGHT) for system in systems if "flight" in system.steps]
    async with _running(large, stores, folder / "large") as subjects:
        measurements += await flight(subjects)
    return measurements


@asynccontextmanager
async def _running(systems: Sequence[System], stores: Stores, folder: Path) -> AsyncIterator[list[Subject]]:
    async with AsyncExitStack() as stack:
        subjects = []
        for system in systems:
            subjects.append(await stack.enter_async_context(Subject.running(system, stores, folder)))
            subjects[-1].pause()
        yield subjects


async def work(subjects: Sequence[Subject]) -> Measurements:
    """Measure the CPU time of empty jobs, from a queue that was filled while the worker was paused."""
    used_s, others_s = dict.fromkeys(subjects, 0.0), dict.fromkeys(subjects, 0.0)
    for _ in range(PORTIONS):
        for subject in subjects:
            done = subject.starts.count
            async with subject.client() as client:
                await client.enqueue("noop", PORTION)
            before_s, others_before_s = subject.cpu_s(), subject.stores.cpu_s()
            with subject.resumed():
                await subject.wait_started(done + PORTION)
                await subject.wait_idle()
            used_s[subject] += subject.cpu_s() - before_s
            others_s[subject] += subject.stores.cpu_s() - others_before_s
    return [
        (subject.system.name, measure, seconds[subject] * 1000 / (PORTION * PORTIONS))
        for measure, seconds in {"cpu_ms": used_s, "others_cpu_ms": others_s}.items()
        for subject in subjects
    ]


async def idle(subject: Subject) -> Measurements:
    """Measure the start latency of single jobs, submitted with random gaps."""
    done = subject.starts.count
    async with subject.client(public=True) as client:
        for number in range(1, IDLE_JOBS + 1):
            await asyncio.sleep(random.uniform(*IDLE_GAP_S))  # noqa: S311
            await client.enqueue("noop")
            await subject.wait_started(done + number)
    return _percentiles(subject, "idle", done)


async def loaded(subject: Subject) -> Measurements:
    """Measure the start latency of jobs at a steady rate."""
    clock = asyncio.get_running_loop().time
    done = subject.starts.count + 1
    async with subject.client(public=True) as client:
        await client.enqueue("noop")  # opens the client's connections
        await subject.wait_started(done)
        begun = clock()
        for number in range(LOADED_JOBS):
            await asyncio.sleep(begun + number / LOADED_PER_S - clock())
            await client.enqueue("noop")
        await subject.wait_started(done + LOADED_JOBS)
    return _percentiles(subject, "loaded", done)


def _percentiles(subject: Subject, step: str, done: int) -> Measurements:
    latencies_ms = subject.starts.latencies_ms[done:]
    return [(subject.system.name, f"{step}_p{percent}_ms", percentile(latencies_ms, percent)) for percent in (50, 95)]


async def flight(subjects: Sequence[Subject]) -> Measurements:
    """Measure memory when idle and with a thousand jobs in flight, and the CPU time of keeping them in flight."""
    measurements: Measurements = []
    for subject in subjects:
        done = subject.starts.count
        measurements.append((subject.system.name, "rss_mb", subject.memory().resident))
        async with subject.client() as client:
            subject.resume()
            await client.enqueue("nap", IN_FLIGHT)
        await subject.wait_started(done + IN_FLIGHT)
    used_s = {subject: subject.cpu_s() for subject in subjects}
    await asyncio.sleep(FLIGHT_S)
    for subject in subjects:
        percent = (subject.cpu_s() - used_s[subject]) / FLIGHT_S * 100
        resident, proportional = subject.memory()
        measured = {"flight_rss_mb": resident, "flight_pss_mb": proportional, "flight_cpu_percent": percent}
        measurements += [(subject.system.name, measure, value) for measure, value in measured.items()]
    return measurements
