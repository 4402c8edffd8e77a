"""Clients of both generations of SignalR without a WebSocket, for tests with hundreds of them in one process.

They send the requests of the real ones, and record what these would not expect.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import aiohttp

from headway.contracts import ENDED
from tests import hub_messages
from tests.integration.load_watchers import WatchedJob

HANDSHAKE = hub_messages.encode(hub_messages.HANDSHAKE)


class SignalRClient(ABC):
    """Watches a job until it has ended.

    Attributes:
        version: the newest version that it has received.
        percents: the percentages that it has received.
        ended: whether it has seen that the job has ended.
    """

    path: ClassVar[str]

    def __init__(self, job: WatchedJob, base: str, session: aiohttp.ClientSession) -> None:
        self.job = job
        self.version = 0
        self.percents: list[float] = []
        self.ended = False
        self.problems: list[str] = []
        self._session = session
        self._url = f"{base}{self.path}"
        self._query = {"jobId": job.id, "access_token": job.token}

    @abstractmethod
    async def run(self) -> None:
        """Connect, watch the job, and disconnect."""

    @asynccontextmanager
    async def send(self, method: str, action: str = "", status: int = 200, **options: Any) -> AsyncIterator[Any]:
        """Send a request of the connection, and check the status of its response."""
        async with self._session.request(method, self._url + action, params=self._query, **options) as response:
            assert response.status == status, f"{method} {action} was answered {await response.text()}"
            yield response

    async def read_text(self, method: str, action: str = "", **options: Any) -> str:
        """Send a request, and return the body of its response."""
        async with self.send(method, action, **options) as response:
            return str(await response.text())

    @asynccontextmanager
    async def open_stream(self, action: str = "") -> AsyncIterator[AsyncIterator[str]]:
        """Open an event stream, and yield the data of its events."""
        async with self.send("GET", action, headers={"Accept": "text/event-stream"}) as response:
            lines = (line.decode() async for line in response.content)
            yield (line.removeprefix("data: ").strip("\r\n") async for line in lines if line.startswith("data: "))

    def on_call(self, method: str, argument: Any) -> None:
        """Called when the server calls a method: no version or percentage comes twice, and none goes back."""
        if method == "updateProgress" and argument > max(self.percents, default=-1):
            self.percents.append(argument)
        elif method == "jobChanged" and argument["id"] == self.job.id and argument["version"] > self.version:
            self.version, self.ended = argument["version"], argument["status"] in ENDED
        else:
            self.problems.append(
                f"{type(self).__name__} received {method}({argument}) at {self.version}, {self.percents}"
            )


class CoreClient(SignalRClient):
    """A client of ASP.NET Core."""

    path = hub_messages.PATH

    async def run(self) -> None:
        """Connect, watch the job, and disconnect."""
        answer = json.loads(await self.read_text("POST", "/negotiate"))
        self._query["id"] = answer["connectionId"]
        await self.watch()
        await self.read_text("DELETE", status=202)

    @abstractmethod
    async def watch(self) -> None:
        """Send the handshake, and receive messages until the job has ended."""

    def on_messages(self, text: str) -> None:
        """Called with messages of the server."""
        for message in hub_messages.decode(text.encode()):
            if message.get("type") == 1:
                self.on_call(message["target"], *message["arguments"])
            elif message not in ({}, {"type": 6}):
                self.problems.append(f"{type(self).__name__} received {message}")


class CoreEventStreamClient(CoreClient):
    """A client of ASP.NET Core with an event stream."""

    async def watch(self) -> None:
        """Send the handshake, and receive messages until the job has ended."""
        async with self.open_stream() as events:
            await self.read_text("POST", data=HANDSHAKE)
            async for data in events:
                self.on_messages(data)
                if self.ended:
                    return


class CoreLongPollingClient(CoreClient):
    """A client of ASP.NET Core with long polls. Its handshake and its first poll are sent at the same time."""

    async def watch(self) -> None:
        """Send the handshake, and receive messages until the job has ended."""
        assert await self.read_text("GET") == ""
        await asyncio.gather(self.read_text("POST", data=HANDSHAKE), self._poll())

    async def _poll(self) -> None:
        while not self.ended:
            self.on_messages(await self.read_text("GET"))


class ClassicClient(SignalRClient):
    """A client of ASP.NET SignalR 2."""

    path = "/signalr"
    transport: ClassVar[str]

    async def run(self) -> None:
        """Connect, watch the job, and disconnect."""
        self._query |= {"clientProtocol": "1.5", "connectionData": '[{"name":"jobprogresshub"}]'}
        answer = json.loads(await self.read_text("GET", "/negotiate"))
        self._query |= {"transport": self.transport, "connectionToken": answer["ConnectionToken"]}
        await self.watch()
        await self.read_text("POST", "/abort")

    @abstractmethod
    async def watch(self) -> None:
        """Connect, start, and receive messages until the job has ended."""

    async def on_envelope(self, text: str) -> str:
        """Called with an envelope, return its cursor; start when it is the first one."""
        envelope = json.loads(text)
        if "S" in envelope:
            assert await self.read_text("GET", "/start") == '{"Response":"started"}'
        for call in envelope.get("M", []):
            self.on_call(call["M"], *call["A"])
        return str(envelope.get("C", ""))


class ClassicEventStreamClient(ClassicClient):
    """A client of ASP.NET SignalR 2 with an event stream."""

    transport = "serverSentEvents"

    async def watch(self) -> None:
        """Connect, start, and receive messages until the job has ended."""
        async with self.open_stream("/connect") as events:
            assert await anext(events) == "initialized"
            async for data in events:
                await self.on_envelope(data)
                if self.ended:
                    return


class ClassicLongPollingClient(ClassicClient):
    """A client of ASP.NET SignalR 2 with long polls."""

    transport = "longPolling"

    async def watch(self) -> None:
        """Connect, start, and receive messages until the job has ended."""
        cursor = await self.on_envelope(await self.read_text("POST", "/connect"))
        while not self.ended:
            cursor = await self.on_envelope(await self.read_text("POST", "/poll", data={"messageId": cursor}))


CLIENT_TYPES = (CoreEventStreamClient, CoreLongPollingClient, ClassicEventStreamClient, ClassicLongPollingClient)
