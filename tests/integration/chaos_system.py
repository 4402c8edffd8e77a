"""The system of the chaos test: proxies between all parts, workers with wrong clocks, and faults of each part."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dev.environment import service_environment
from tests.integration.http_proxy import DROP, FREEZE, LOST, HttpProxy, http_proxy
from tests.integration.tcp_proxy import TcpProxy
from tests.integration.worker_fleet import IDLE_WORKER, WorkerFleet, WorkerProcess, run_workers
from tests.stack import Stack, running
from tests.waiting import free_ports, wait_until

WRONG_CLOCK = Path(__file__).with_name("wrong_clock")
CLOCK_OFFSETS_S = (0, -150, 200, 0)  # of each worker
LEASE_S = 4
ERRORS = ("400", "401", "403", "404", "413", "422", "429", "500", "502", "503")
CUT = "cut"  # close all TCP connections
# A lost response of the queue costs a worker its lease: it does not know which pop receipt is valid.
FAULTS = {
    "worker to notifier": (*ERRORS, DROP, LOST, FREEZE),
    "worker to queue": (*ERRORS, FREEZE),
    "submitter to notifier": (*ERRORS, DROP, LOST, FREEZE),
    "submitter to queue": (*ERRORS, DROP, LOST, FREEZE),
    "notifier to Redis": (FREEZE, CUT),
}
FAULT_S = {"worker to queue": (0.2, 0.8)}  # so short that a lease can still be renewed
DEFAULT_FAULT_S = (0.2, 3.0)
RENEWAL_S = LEASE_S / 5  # from a fault to the next renewal
WORKER_INTERVAL_S, LINK_INTERVAL_S = (1.0, 2.5), (0.2, 1.0)  # between two faults
DOWNTIME_S, FROZEN_S = (0.0, 1.0), (0.5, 1.8 * LEASE_S)


class WorkerFault(NamedTuple):
    """What the test has done to a worker."""

    name: str  # "killed", "frozen" or "stopped"
    at: float  # monotonic
    worker: int  # its process id
    ended_at: float = float("inf")  # when it had exited or continued

    @property
    def is_fatal(self) -> bool:
        """Whether it may cost the worker's jobs an attempt."""
        return self.name != "stopped"

    @property
    def until(self) -> float:
        """Until when it may cost a job an attempt: a worker that continues may renew a lease too late."""
        return self.ended_at + (LEASE_S if self.name == "frozen" else 0)


class ChaosSystem:
    """A running system, and the faults so far."""

    def __init__(self, stack: Stack, http: dict[str, HttpProxy], redis: TcpProxy, rng: random.Random) -> None:
        self.stack = stack
        self.workers: WorkerFleet
        self.worker_faults: list[WorkerFault] = []
        self.other_faults: list[str] = []
        self._http = http
        self._redis = redis
        self._rng = rng
        self._queue_of_workers = asyncio.Lock()  # a stopped worker needs the queue, or its jobs lose an attempt

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, seed: int) -> AsyncIterator[ChaosSystem]:
        """Run the system until the block ends."""
        ports = dict(zip(("AZURITE_PORT", "VALKEY_PORT", "NOTIFIER_INTERNAL_PORT"), free_ports(3), strict=True))
        async with AsyncExitStack() as stack:
            proxies, settings = {}, {}
            for service in ("worker", "submitter"):
                queue, notifier = free_ports(2)
                for part, port, name in (
                    ("queue", queue, "AZURITE_PORT"),
                    ("notifier", notifier, "NOTIFIER_INTERNAL_PORT"),
                ):
                    proxies[f"{service} to {part}"] = await stack.enter_async_context(http_proxy(port, ports[name]))
                settings[service] = addresses(queue, notifier)
            redis = await stack.enter_async_context(TcpProxy.running(lambda: [ports["VALKEY_PORT"]]))
            env = {
                **{name: str(port) for name, port in ports.items()},
                **settings["submitter"],
                **IDLE_WORKER,
                "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
                "DEAF_S": "1",
                "DRAIN_S": "0.2",
            }
            system = cls(
                await stack.enter_async_context(running(folder / "stack", **env)), proxies, redis, random.Random(seed)
            )
            env = {"WORKER_CONCURRENCY": "8", "GRACE_S": "0.3", "LEASE_S": str(LEASE_S), **settings["worker"]}
            system.workers = await stack.enter_async_context(run_workers(system.stack, folder / "fleet", 0, **env))
            path = os.pathsep.join([str(WRONG_CLOCK), *filter(None, [os.environ.get("PYTHONPATH")])])
            workers = (
                system.workers.add(PYTHONPATH=path, CLOCK_OFFSET_S=str(offset_s)) for offset_s in CLOCK_OFFSETS_S
            )
            await asyncio.gather(*workers)
            yield system

    @property
    def queue(self) -> str:
        """The connection string of the queue without a proxy."""
        return addresses(int(self.stack.env["AZURITE_PORT"]), 0)["QUEUE_CONNECTION_STRING"]

    async def harm_workers(self) -> None:
        """Kill, freeze or stop a worker every few seconds, until cancelled; at least one keeps running."""
        up = list(self.workers.workers)

        async def harm(worker: WorkerProcess, fault: Callable[[WorkerProcess], Awaitable[None]]) -> None:
            await fault(worker)
            up.append(worker)

        async with asyncio.TaskGroup() as group:
            while True:
                for fault in self._rng.sample([self._kill, self._freeze, self._stop], 3):
                    await asyncio.sleep(self._rng.uniform(*WORKER_INTERVAL_S))
                    if len(up) > 1:
                        group.create_task(harm(up.pop(self._rng.randrange(len(up))), fault))

    @contextmanager
    def _fault(self, name: str, worker: WorkerProcess) -> Iterator[None]:
        """Record a fault of a worker, which the block causes."""
        fault = WorkerFault(name, time.monotonic(), worker.pid)
        self.worker_faults.append(fault)
        yield
        self.worker_faults[self.worker_faults.index(fault)] = fault._replace(ended_at=time.monotonic())

    async def _kill(self, worker: WorkerProcess) -> None:
        with self._fault("killed", worker):
            await worker.kill()
        await asyncio.sleep(self._rng.uniform(*DOWNTIME_S))
        await worker.start()

    async def _freeze(self, worker: WorkerProcess) -> None:
        with self._fault("frozen", worker):
            worker.signal(signal.SIGSTOP)
            await asyncio.sleep(self._rng.uniform(*FROZEN_S))
        worker.signal(signal.SIGCONT)

    async def _stop(self, worker: WorkerProcess) -> None:
        async with self._queue_of_workers:
            with self._fault("stopped", worker):
                await worker.stop()
        await worker.start()

    async def harm_links(self) -> None:
        """Fail the requests between two parts of the system for some time, again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._rng.uniform(*LINK_INTERVAL_S))
            link = self._rng.choice(list(FAULTS))
            fault = self._rng.choice(FAULTS[link])
            seconds = self._rng.uniform(*FAULT_S.get(link, DEFAULT_FAULT_S))
            self.other_faults.append(f"{link}: {fault} for {seconds:.1f} s")
            if link == "notifier to Redis":
                await self._harm_redis_connections(fault, seconds)
            elif link == "worker to queue":
                async with self._queue_of_workers:
                    with self._http[link].failing(fault):
                        await asyncio.sleep(seconds)
                    await asyncio.sleep(RENEWAL_S)
            else:
                with self._http[link].failing(fault):
                    await asyncio.sleep(seconds)

    async def _harm_redis_connections(self, fault: str, seconds: float) -> None:
        if fault == CUT:
            self._redis.cut()
            return
        self._redis.pause()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._redis.resume()

    async def restart_services(self, have_ended: Callable[[float], bool]) -> None:
        """Kill or stop each service and Redis.

        Args:
            have_ended: returns whether at least this share of the jobs has ended.
        """
        faults = (
            ("notifier", signal.SIGKILL),
            ("submitter", signal.SIGKILL),
            ("valkey", signal.SIGKILL),
            ("notifier", signal.SIGTERM),
        )
        for number, (name, signal_number) in enumerate(faults, 1):
            await wait_until(partial(have_ended, number / (len(faults) + 2)), 300)
            await self.stack.kill(name, signal_number)
            self.other_faults.append(f"{name} {signal_number.name}")


def addresses(queue: int, notifier: int) -> dict[str, str]:
    """Return the settings with the addresses of the queue and the notifier at these ports."""
    ports = {"AZURITE_PORT": str(queue), "NOTIFIER_INTERNAL_PORT": str(notifier)}
    env = service_environment(Path(), ports)
    return {name: env[name] for name in ("QUEUE_CONNECTION_STRING", "NOTIFIER_INTERNAL_URL")}
