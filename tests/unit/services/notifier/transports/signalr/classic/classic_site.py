"""A replica that serves the classic hub, with real tokens and subscriptions, and raw requests of its clients."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import ClientResponse, ClientWebSocketResponse

from headway.timestamp import Timestamp
from services.notifier.app import SIGNALR_PATHS
from services.notifier.records.keys import job_key
from services.notifier.transports.signalr.authorization import ConnectionAuth
from services.notifier.transports.signalr.classic.handler import ClassicHandler
from services.notifier.transports.signalr.connection_tokens import ConnectionTokens
from services.runtime.cors import CorsPolicy
from services.runtime.settings import ReloadingFile, read_keys
from tests.key_files import replace_file
from tests.unit.services.notifier.transports.notifier_parts import Replica
from tests.unit.services.runtime.http_app import Client, serve
from tests.waiting import PATIENCE_S

ORIGIN = "https://page.example"
HUBS = '[{"name":"jobprogresshub"}]'
TRANSPORTS = ("webSockets", "serverSentEvents", "longPolling")


class ClassicSite:
    """A replica, and a client of one job. All requests come from a page of an allowed origin."""

    client: Client

    def __init__(self, keys: Path, **settings: Any) -> None:
        self.replica = Replica(keys, **settings)
        tokens = ConnectionTokens(ReloadingFile(keys / "report.key", read_keys))
        auth = ConnectionAuth(self.replica.auth)
        self.handler = ClassicHandler(self.replica.registry, self.replica.settings, auth, tokens)
        self.job_id = uuid4()
        self.query = {
            "clientProtocol": "1.5",
            "jobId": str(self.job_id),
            "token": self.replica.token(self.job_id),
            "connectionToken": tokens.issue(Timestamp.now())[1],
            "connectionData": HUBS,
        }

    async def request(
        self, action: str, method: str = "GET", headers: dict[str, str] | None = None, **parts: Any
    ) -> ClientResponse:
        """Send a request; `query` replaces parameters, or leaves them out if they are None."""
        query = {name: value for name, value in {**self.query, **parts.pop("query", {})}.items() if value is not None}
        path = action if action.startswith("/") else f"/signalr/{action}"
        headers = {"Origin": ORIGIN, **(headers or {})}
        return await self.client.request(method, path, params=query, headers=headers, **parts)

    async def json(self, action: str, method: str = "GET", **parts: Any) -> Any:
        """Send a request and return the JSON of its answer."""
        response = await self.request(action, method, **parts)
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "application/json; charset=UTF-8"
        return json.loads(await response.read())

    async def problem(self, action: str, method: str = "GET", **parts: Any) -> tuple[int, str]:
        """Send a request that is refused; return the status and the text."""
        response = await self.request(action, method, **parts)
        body = json.loads(await response.read())
        assert body["status"] == response.status
        return response.status, body["detail"]

    @asynccontextmanager
    async def open(self, transport: str, action: str = "connect", **query: Any) -> AsyncIterator[Messages]:
        """Open or resume a connection, or send a poll; yield what the server sends."""
        query = {**self.query, "transport": transport, **query}
        if transport == "webSockets":
            headers = {"Origin": ORIGIN}
            async with self.client.ws_connect(f"/signalr/{action}", params=query, headers=headers) as socket:
                yield SocketMessages(socket)
        else:
            method = "POST" if transport == "longPolling" else "GET"
            async with await self.request(action, method, query=query) as response:
                assert response.status == 200, await response.text()
                yield EventMessages(response) if transport == "serverSentEvents" else Messages(response)

    def publish(self, version: int, percent: float) -> None:
        """Publish a snapshot of the job."""
        progress = {"current": percent, "total": 100, "percent": percent}
        snapshot = {"id": str(self.job_id), "status": "running", "version": version, "progress": progress}
        self.replica.synchronizer.on_publication(job_key(str(self.job_id)), json.dumps(snapshot).encode())

    def is_watched(self) -> bool:
        """Return whether a connection watches the job."""
        return str(self.job_id) in self.replica.hub

    def remove_token_key(self) -> None:
        """Remove the key that has signed the job's token."""
        replace_file(self.replica.public_keys, self.replica.new_key()[1])


class Messages:
    """The messages in the answer to a poll."""

    def __init__(self, response: ClientResponse) -> None:
        self.response = response

    async def text(self) -> str:
        """Return the next message, or an empty text at the end."""
        return await self.response.text()

    async def envelope(self) -> Any:
        """Return the next message as JSON."""
        return json.loads(await self.text())


class EventMessages(Messages):
    """The messages of an event stream."""

    async def text(self) -> str:
        """Return the data of the next event after `initialized`, or an empty text at the end."""
        event = await self.response.content.readuntil(b"\n\n") if not self.response.content.at_eof() else b""
        match = re.fullmatch(r"data: (.*)\n\n", event.decode())
        if match is None:
            assert event == b""
            return ""
        return await self.text() if match[1] == "initialized" else match[1]


class SocketMessages(Messages):
    """The messages of a WebSocket."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket = socket

    async def text(self) -> str:
        """Return the next message, or an empty text at the end."""
        message = await self.socket.receive(PATIENCE_S)
        return str(message.data) if message.type.name == "TEXT" else ""


@asynccontextmanager
async def run_site(keys: Path, **settings: Any) -> AsyncIterator[ClassicSite]:
    """Serve the classic hub until the block ends."""
    site, cors = ClassicSite(keys, **settings), CorsPolicy([ORIGIN], credentialed_paths=SIGNALR_PATHS)
    async with serve(*site.handler.routes(), cors=cors) as site.client:
        yield site
