"""Clients that watch as docs/http-api.md says, over a WebSocket or an event stream, and note when they get news."""

from __future__ import annotations

import asyncio
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.deploy.containers import System
from tests.waiting import wait_until

RECONNECT_S, MAX_RECONNECT_S = 2.0, 10.0  # the first delay is up to 2 s, and doubles with each failure
MIN_OVERLOAD_DELAY_S = 2.0  # after a close with 1013, or a 503
RESTART, TRY_AGAIN_LATER, UNAVAILABLE = 1012, 1013, 503
ENDED = ("succeeded", "failed", "cancelled")
TICK_S = 0.05


@dataclass
class Pause:
    """The longest time for which this process got no CPU, in seconds."""

    longest_s: float = 0.0


@asynccontextmanager
async def measured_pause() -> AsyncIterator[Pause]:
    """Measure, until the block ends, how late this process runs a timer."""
    pause = Pause()

    async def tick() -> None:
        while True:
            due_at = time.monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            pause.longest_s = max(pause.longest_s, time.monotonic() - due_at)

    ticking = asyncio.create_task(tick())
    try:
        yield pause
    finally:
        ticking.cancel()


class Client(ABC):
    """A client that watches one job until the job ends.

    `silence_s` is the longest time between two versions, with `waited_s`, the part of it that the client waited before
    it connected again.
    """

    def __init__(self, system: System, receipt: dict[str, Any], reconnect_s: float = RECONNECT_S) -> None:
        self._session = system.session
        self._url = system.url
        self._receipt = receipt
        self._reconnect_s = reconnect_s
        self._failures = 0
        self._news_at: float | None = None
        self._waited_s = 0.0  # since the last news
        self.job: dict[str, Any] = {"version": 0, "status": "queued"}
        self.silence_s = self.waited_s = 0.0

    async def run(self) -> None:
        """Watch until the job has ended."""
        while self.job["status"] not in ENDED:
            try:
                delay_s = await self._watch()
            except aiohttp.ClientResponseError as error:
                delay_s = self._backoff_s(min_s=MIN_OVERLOAD_DELAY_S if error.status == UNAVAILABLE else 0.0)
            except (aiohttp.ClientError, TimeoutError):
                delay_s = self._backoff_s()
            if self.job["status"] not in ENDED:
                self._waited_s += delay_s
                await asyncio.sleep(delay_s)

    def _backoff_s(self, spread_s: float | None = None, min_s: float = 0.0) -> float:
        longest_s = min(MAX_RECONNECT_S, (spread_s or self._reconnect_s) * 2**self._failures)
        delay_s = min_s + random.uniform(0, longest_s)
        self._failures += 1
        return delay_s

    def _on_job(self, job: dict[str, Any]) -> None:
        assert job["version"] > self.job["version"]
        self.job, now = job, time.monotonic()
        if self._news_at is not None and now - self._news_at > self.silence_s:
            self.silence_s, self.waited_s = now - self._news_at, self._waited_s
        self._news_at, self._waited_s, self._failures = now, 0.0, 0

    @abstractmethod
    async def _watch(self) -> float:
        """Watch over one connection; return for how many seconds to wait before the next one."""


class WebSocketClient(Client):
    """Watches over a WebSocket."""

    async def _watch(self) -> float:
        url = self._url.replace("http", "ws", 1) + "/live"
        restart_spread_s: float | None = None
        async with self._session.ws_connect(url, heartbeat=20) as socket:
            await socket.send_json({"watch": self._receipt["token"], "version": self.job["version"]})
            async for message in socket:
                received = json.loads(message.data)
                if "job" in received:
                    self._on_job(received["job"])
                elif "hello" in received:
                    restart_spread_s = received["hello"].get("reconnect_s")
                if self.job["status"] in ENDED:
                    return 0.0
        if socket.close_code == RESTART:
            return self._backoff_s(restart_spread_s)
        return self._backoff_s(min_s=MIN_OVERLOAD_DELAY_S if socket.close_code == TRY_AGAIN_LATER else 0.0)


class EventStreamClient(Client):
    """Watches over an event stream."""

    async def _watch(self) -> float:
        url = f"{self._url}/live/jobs/{self._receipt['id']}/events"
        headers = {"Authorization": f"Bearer {self._receipt['token']}", "Last-Event-ID": str(self.job["version"])}
        retry_s: float | None = None
        timeout = aiohttp.ClientTimeout(total=None, sock_read=50)
        async with self._session.get(url, headers=headers, timeout=timeout) as response:
            response.raise_for_status()
            async for line in response.content:
                name, _, value = line.rstrip(b"\n").partition(b": ")
                if name == b"data":
                    self._on_job(json.loads(value))
                elif name == b"retry":
                    retry_s = int(value) / 1000
        return self._backoff_s() if retry_s is None else retry_s


@asynccontextmanager
async def watching_clients(
    system: System, receipts: Sequence[dict[str, Any]], sockets: int, streams: int, reconnect_s: float = RECONNECT_S
) -> AsyncIterator[list[Client]]:
    """Watch some jobs with many clients, until these have ended; a client that fails fails the test."""
    kinds: list[type[Client]] = [WebSocketClient] * sockets + [EventStreamClient] * streams
    clients = [kind(system, receipts[number % len(receipts)], reconnect_s) for number, kind in enumerate(kinds)]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run())
        await wait_until(lambda: all(client.job["status"] == "running" for client in clients), 60)
        yield clients
