"""The requests of hub clients at `/hubs/job-progress`.

https://github.com/dotnet/aspnetcore/blob/main/src/SignalR/docs/specs/TransportProtocols.md
"""

from __future__ import annotations

from uuid import UUID

from aiohttp import web
from msgspec import Struct

from .....runtime.aiohttp_adapter import detach
from .....runtime.errors import NotFound, ServiceUnavailable
from .....runtime.request import read_query
from ...auth import WatchRequest, presented_token
from ...refusals import RejectedToken, TokenAllowance, problem_for
from ...registry import RETRY_AFTER_S
from ...websocket.handshake import accept_upgrade
from ..connection_tokens import ConnectionTokens
from .session import Hub
from .websocket import HubWebSocket

PATH = "/hubs/job-progress"
NO_STORE = {"Cache-Control": "no-store"}
MAX_NEGOTIATE_VERSION = 1
TRANSPORTS = [
    {"transport": "WebSockets", "transferFormats": ["Text", "Binary"]},
]


class ConnectionQuery(Struct, frozen=True, rename="camel"):
    """The query of all requests: the job that the connection watches, and the token of the connection."""

    id: str | None = None
    job_id: UUID | None = None
    negotiate_version: int = 0


class HubHandler:
    """Handles the requests of hub clients.

    Args:
        hub: what all sessions use.
        tokens: the tokens of connections.
    """

    def __init__(self, hub: Hub, tokens: ConnectionTokens) -> None:
        self._hub = hub
        self._tokens = tokens

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [web.post(f"{PATH}/negotiate", self.negotiate), web.get(PATH, self.connect, allow_head=False)]

    async def negotiate(self, request: web.Request) -> web.Response:
        """Answer which transports there are, with a new connection. Nothing is stored, so it needs no Redis."""
        self._ensure_available()
        query = read_query(request, ConnectionQuery)
        self._authorize(request, query)
        connection, token = self._tokens.issue(self._hub.store.clock.now())
        version = min(max(query.negotiate_version, 0), MAX_NEGOTIATE_VERSION)
        ids = {"connectionId": connection.id, "connectionToken": token} if version else {"connectionId": token}
        return web.json_response(
            {"negotiateVersion": version, **ids, "availableTransports": TRANSPORTS}, headers=NO_STORE
        )

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """Open a WebSocket. A client that skips the negotiation has no id."""
        self._ensure_available()
        query = read_query(request, ConnectionQuery)
        if query.id is not None and self._tokens.verify(query.id) is None:
            raise NotFound("There is no connection with this id.", field="id")
        first = self._authorize(request, query)
        upgrade = accept_upgrade(request)
        if request.transport is None:
            raise ConnectionResetError
        connection = HubWebSocket(self._hub, request.transport, request.headers.get("Origin"), first)
        return detach(request, upgrade, connection)

    def _ensure_available(self) -> None:
        if self._hub.registry.sends_away:
            message = "This replica is stopping, or has lost Redis; connect again."
            raise ServiceUnavailable(message, retry_after_s=RETRY_AFTER_S)

    def _authorize(self, request: web.Request, query: ConnectionQuery) -> WatchRequest | None:
        """Return the job that a connection watches from the beginning, None without one.

        Raises:
            HTTPProblem: there is no token for the job, or the token is not valid.
        """
        token = presented_token(request)
        if token is None:
            if query.job_id is not None:
                raise problem_for("invalid_token", "Send a token for the job, as `access_token`.")
            return None
        result = self._hub.auth.verify(token, None, TokenAllowance(1), query.job_id)
        if not isinstance(result, RejectedToken):
            return result
        if query.job_id is None and result.code == "invalid":
            return None  # a list token; the client names jobs later
        raise problem_for(result.code, result.message)
