"""The requests of hub clients at `/hubs/job-progress`.

https://github.com/dotnet/aspnetcore/blob/main/src/SignalR/docs/specs/TransportProtocols.md
"""

from __future__ import annotations

from functools import partial

from aiohttp import hdrs, web
from msgspec import Struct

from .....runtime.errors import BadRequest, Conflict, NotFound, ServiceUnavailable
from .....runtime.request import read_body, read_query
from ...auth import unavailable_without_store
from ...registry import RETRY_AFTER_S
from ...websocket.handshake import open_websocket
from ..authorization import ConnectionAuth
from ..connection_tokens import ConnectionId, ConnectionTokens
from ..responses import HEADERS
from .connection import HubConnection
from .fallbacks import NO_CONNECTION, HubFallbacks
from .hub import Hub
from .inbox import Inbox
from .protocols import MAX_BATCH_BYTES
from .sse import HubEventStream
from .websocket import HubWebSocket

PATH = "/hubs/job-progress"
EVENT_STREAM = "text/event-stream"
MAX_NEGOTIATE_VERSION = 1
TRANSPORTS = [
    {"transport": "WebSockets", "transferFormats": ["Text", "Binary"]},
    {"transport": "ServerSentEvents", "transferFormats": ["Text"]},
    {"transport": "LongPolling", "transferFormats": ["Text", "Binary"]},
]


class ConnectionQuery(Struct, frozen=True, rename="camel"):
    """The query of requests: the token of the connection."""

    id: str | None = None
    negotiate_version: int = 0


class HubHandler:
    """Handles the requests of hub clients.

    Args:
        hub: what all sessions use.
        tokens: the tokens of connections.
        auth: authorizes connections.
        inbox: the messages of connections without a WebSocket.
    """

    def __init__(self, hub: Hub, tokens: ConnectionTokens, auth: ConnectionAuth, inbox: Inbox) -> None:
        self._hub = hub
        self._auth = auth
        self._tokens = tokens
        self._inbox = inbox
        self._fallbacks = HubFallbacks(hub, auth, inbox)
        self._open: dict[str, type[HubConnection]] = {}  # by id, the WebSockets and event streams on this replica

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [
            web.post(f"{PATH}/negotiate", self.negotiate),
            web.get(PATH, self.connect, allow_head=False),
            web.post(PATH, self.receive),
            web.delete(PATH, self.close),
        ]

    async def negotiate(self, request: web.Request) -> web.Response:
        """Answer which transports there are, with a new connection. Nothing is stored, so it needs no Redis."""
        self._hub.registry.ensure_available()
        query = read_query(request, ConnectionQuery)
        self._auth.authorize(request)
        connection, token = self._tokens.issue(self._hub.store.clock.now())
        version = min(max(query.negotiate_version, 0), MAX_NEGOTIATE_VERSION)
        ids = {"connectionId": connection.id, "connectionToken": token} if version else {"connectionId": token}
        return web.json_response(
            {"negotiateVersion": version, **ids, "availableTransports": TRANSPORTS}, headers=HEADERS
        )

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """Open a WebSocket or an event stream, or answer a poll. A client that skips the negotiation has no id."""
        is_upgrade = "websocket" in request.headers.get("Upgrade", "").lower()
        query = read_query(request, ConnectionQuery)
        connection = None if query.id is None and is_upgrade else self._connection(query)
        if connection is not None and connection.id in self._open:
            raise Conflict("The connection is open.", field="id")
        if connection is None or is_upgrade:
            return self._open_websocket(request, connection)
        if EVENT_STREAM not in request.headers.get("Accept", ""):
            return await self._fallbacks.poll(request, connection)
        self._open[connection.id] = HubEventStream
        try:
            return await self._fallbacks.stream(request, connection)
        finally:
            del self._open[connection.id]

    def _open_websocket(self, request: web.Request, connection: ConnectionId | None) -> web.StreamResponse:
        first = self._auth.authorize(request)
        self._hub.registry.ensure_available()
        connection_id = "" if connection is None else connection.id
        forget = partial(self._open.pop, connection_id, None)
        _, response = open_websocket(request, partial(HubWebSocket, self._hub, first, forget))
        if connection_id:
            self._open[connection_id] = HubWebSocket
        return response

    async def receive(self, request: web.Request) -> web.Response:
        """Pass on what a client without a WebSocket sends to the replica that has its connection."""
        connection = self._connection(read_query(request, ConnectionQuery))
        if self._open.get(connection.id) is HubWebSocket:
            raise web.HTTPMethodNotAllowed(request.method, [hdrs.METH_GET])
        body = await read_body(request, MAX_BATCH_BYTES)
        with unavailable_without_store():
            result = await self._inbox.append(connection.id, body)
        if result == "closed":
            raise NotFound(NO_CONNECTION, field="id")
        if result == "full":
            raise ServiceUnavailable("Too many messages wait.", code="overloaded", retry_after_s=RETRY_AFTER_S)
        return web.Response(headers=HEADERS)

    async def close(self, request: web.Request) -> web.Response:
        """End a connection."""
        connection = self._connection(read_query(request, ConnectionQuery))
        with unavailable_without_store():
            await self._inbox.close(connection.id)
        return web.Response(status=202, headers=HEADERS)

    def _connection(self, query: ConnectionQuery) -> ConnectionId:
        """Return the connection that a request names.

        Raises:
            BadRequest: it names none.
            NotFound: this server has not negotiated it.
        """
        if query.id is None:
            raise BadRequest("Negotiate first, and send the connection's token as `id`.", field="id")
        connection = self._tokens.verify(query.id)
        if connection is None:
            raise NotFound(NO_CONNECTION, field="id")
        return connection
