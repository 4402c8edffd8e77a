"""A client of the hub at `/hubs/job-progress` without a library, over each transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from tests.hub_messages import HANDSHAKE, PATH, decode, encode
from tests.integration.conftest import ORIGIN, Notifier
from tests.waiting import PATIENCE_S

TRANSPORTS = ("websocket", "sse", "poll")


class HubClient:
    """A connection that was negotiated. `received` has the messages; None at its end says that it has ended."""

    def __init__(self, notifier: Notifier, token: str) -> None:
        self.received: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.url = f"{notifier.public}{PATH}"
        self.query = {"id": token}
        self.session = notifier.session
        self._websocket: aiohttp.ClientWebSocketResponse | None = None

    @classmethod
    async def negotiate(cls, notifier: Notifier) -> HubClient:
        """Negotiate a connection."""
        url = f"{notifier.public}{PATH}/negotiate?negotiateVersion=1"
        async with notifier.session.post(url, headers={"Origin": ORIGIN}) as response:
            return cls(notifier, (await response.json())["connectionToken"])

    @classmethod
    @asynccontextmanager
    async def connected(cls, notifier: Notifier, transport: str) -> AsyncIterator[HubClient]:
        """Connect and shake hands."""
        client = await cls.negotiate(notifier)
        ready = asyncio.Event()
        receiving = asyncio.create_task(getattr(client, f"_receive_{transport}")(ready))
        try:
            await asyncio.wait_for(ready.wait(), PATIENCE_S)
            await client.send(encode(HANDSHAKE))
            assert await client.next_message() == {}
            yield client
        finally:
            receiving.cancel()
            with suppress(asyncio.CancelledError):
                await receiving

    @property
    def channel(self) -> str:
        """The channel of the connection, which is also the key of what it has sent."""
        return f"headway:conn:{{{self.query['id'].split('.')[1]}}}"

    async def next_message(self) -> dict[str, Any] | None:
        """Return the next message, None if the connection has ended."""
        return await asyncio.wait_for(self.received.get(), PATIENCE_S)

    async def call(self, invocation_id: str, target: str, *arguments: Any) -> None:
        """Call a method of the hub."""
        fields = {"type": 1, "invocationId": invocation_id, "target": target, "arguments": arguments}
        await self.send(encode(fields))

    async def send(self, data: bytes) -> None:
        """Send messages, together."""
        if self._websocket is not None:
            await self._websocket.send_str(data.decode())
        else:
            assert await self.request("POST", data) == (200, b"")

    async def request(self, method: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Send a request of the connection; return the status of the answer and its body."""
        async with self.session.request(
            method, self.url, params=self.query, data=data, headers={"Origin": ORIGIN, **headers}
        ) as response:
            return response.status, await response.read()

    async def _receive_websocket(self, ready: asyncio.Event) -> None:
        async with self.session.ws_connect(
            self.url, params=self.query, headers={"Origin": ORIGIN}, max_msg_size=0
        ) as self._websocket:
            ready.set()
            async for message in self._websocket:
                self._put(message.data.encode())
        self.received.put_nowait(None)

    async def _receive_sse(self, ready: asyncio.Event) -> None:
        headers = {"Origin": ORIGIN, "Accept": "text/event-stream"}
        async with self.session.get(self.url, params=self.query, headers=headers) as response:
            ready.set()
            async for line in response.content:
                if line.startswith(b"data: "):
                    self._put(line.removeprefix(b"data: "))
        self.received.put_nowait(None)

    async def _receive_poll(self, ready: asyncio.Event) -> None:
        while True:
            status, body = await self.request("GET")
            ready.set()
            if status != 200:
                break
            self._put(body)
        self.received.put_nowait(None)

    def _put(self, data: bytes) -> None:
        for message in decode(data):
            self.received.put_nowait(message)
