"""The requests of hub clients at `/hubs/job-progress`.

https://github.com/dotnet/aspnetcore/blob/main/src/SignalR/docs/specs/TransportProtocols.md
"""

from __future__ import annotations

from aiohttp import web
from msgspec import Struct

from .....runtime.errors import BadRequest, NotFound, ServiceUnavailable
from .....runtime.request import read_body, read_query
from ...auth import unavailable_without_store
from ...registry import RETRY_AFTER_S
from ...websocket.handshake import open_websocket
from ..authorization import ConnectionAuth
from ..connection_tokens import ConnectionId, ConnectionTokens
from .fallbacks import HubFallbacks
from .inbox import Inbox
from .protocols import MAX_MESSAGE_BYTES
from .session import Hub
from .websocket import HubWebSocket

PATH = "/hubs/job-progress"
EVENT_STREAM = "text/event-stream"
NO_STORE = {"Cache-Control": "no-store"}
MAX_NEGOTIATE_VERSION = 1
NO_CONNECTION = "There is no connection with this id."
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
        self._fallbacks = HubFallbacks(hub, inbox)

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
            {"negotiateVersion": version, **ids, "availableTransports": TRANSPORTS}, headers=NO_STORE
        )

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """Open a WebSocket or an event stream, or answer a poll. A client that skips the negotiation has no id."""
        is_upgrade = "websocket" in request.headers.get("Upgrade", "").lower()
        query = read_query(request, ConnectionQuery)
        connection = None if query.id is None and is_upgrade else self._connection(query)
        first = self._auth.authorize(request)
        if connection is not None and not is_upgrade:
            streams = EVENT_STREAM in request.headers.get("Accept", "")
            serve = self._fallbacks.stream if streams else self._fallbacks.poll
            return await serve(request, connection, first)
        self._hub.registry.ensure_available()
        _, response = open_websocket(
            request, lambda transport, origin: HubWebSocket(self._hub, transport, origin, first)
        )
        return response

    async def receive(self, request: web.Request) -> web.Response:
        """Pass on what a client without a WebSocket sends to the replica that has its connection."""
        connection = self._connection(read_query(request, ConnectionQuery))
        body = await read_body(request, MAX_MESSAGE_BYTES)
        with unavailable_without_store():
            result = await self._inbox.append(connection.id, body)
        if result == "closed":
            raise NotFound(NO_CONNECTION, field="id")
        if result == "full":
            raise ServiceUnavailable("Too many messages wait.", code="overloaded", retry_after_s=RETRY_AFTER_S)
        return web.Response(headers=NO_STORE)

    async def close(self, request: web.Request) -> web.Response:
        """End a connection."""
        connection = self._connection(read_query(request, ConnectionQuery))
        with unavailable_without_store():
            await self._inbox.close(connection.id)
        return web.Response(status=202, headers=NO_STORE)

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
