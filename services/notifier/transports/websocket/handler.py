"""The handler of WebSocket messages; one connection may watch many jobs."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Annotated
from uuid import UUID

import msgspec
import structlog
from aiohttp import web
from msgspec import Meta, Struct
from websockets.frames import CloseCode

from headway.contracts import Natural, decode

from ...records.index.query import DEFAULT_PAGE
from ...records.store import JobStore
from ...settings import NotifierSettings
from ..auth import Token, TokenAuth, presented_token
from ..cancellation import cancel_watched
from ..list_queries import MAX_LIVE_JOBS, ListFilter
from ..refusals import RejectedToken
from ..registry import ConnectionRegistry
from .connection import WebSocketConnection
from .handshake import open_websocket
from .list_connections import ListConnections
from .protocol import encode_hello

COMMANDS = ("watch", "unwatch", "cancel", "list", "unlist")
OPTIONS = {"version": "watch", "job_id": "watch", "log": "watch", "filter": "list", "limit": "list", "list_id": "list"}
ListId = Annotated[str, Meta(max_length=64)]


class ClientMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """A message of a client: exactly one of COMMANDS, with its OPTIONS."""

    watch: Token | None = None
    version: Natural | None = None
    job_id: UUID | None = None
    log: Natural | None = None
    unwatch: UUID | None = None
    cancel: UUID | None = None
    list: Token | None = None
    filter: ListFilter | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LIVE_JOBS)] | None = None
    list_id: ListId | None = None
    unlist: ListId | None = None

    def __post_init__(self) -> None:
        if sum(getattr(self, command) is not None for command in COMMANDS) != 1:
            raise ValueError("Expected exactly one of `watch`, `unwatch`, `cancel`, `list` and `unlist`")
        for option, command in OPTIONS.items():
            if getattr(self, option) is not None and getattr(self, command) is None:
                raise ValueError(f"Expected `{option}` only together with `{command}`")


class WebSocketHandler:
    """Upgrades requests to WebSockets and handles their messages."""

    def __init__(
        self,
        registry: ConnectionRegistry,
        store: JobStore,
        auth: TokenAuth,
        settings: NotifierSettings,
        lists: ListConnections,
    ) -> None:
        self._registry = registry
        self._lists = lists
        self._store = store
        self._auth = auth
        self.settings = settings

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [web.get("/live", self.connect, allow_head=False)]

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """Upgrade a request to a WebSocket, which from then on runs without aiohttp."""
        self._registry.ensure_available()
        connection, response = open_websocket(
            request, lambda transport, origin: WebSocketConnection(self, transport, origin)
        )
        token = presented_token(request)
        if token is not None and not connection.closing:
            self._subscribe(connection, token)
        return response

    def on_open(self, connection: WebSocketConnection) -> None:
        """Called when a connection opens: register it and send a hello, or close it if there are too many.

        The refusal is a close frame, because browsers do not show pages the HTTP response to an upgrade.
        """
        if self._registry.at_capacity():
            connection.close(CloseCode.TRY_AGAIN_LATER, "too many connections")
        else:
            self._registry.register(connection)
            connection.write(encode_hello(self._store.clock.now(), self.settings.max_silence_s))

    def on_drained(self, connection: WebSocketConnection) -> None:
        """Called when a backpressured connection drains: send its pending snapshots, and the changes of its lists."""
        self._registry.flush(connection)
        self._lists.flush(connection)

    def on_close(self, connection: WebSocketConnection) -> None:
        """Called when a connection ends."""
        self._lists.close_all(connection)
        self._registry.unregister(connection)

    def on_message(self, connection: WebSocketConnection, text: str) -> Coroutine[None, None, None] | None:
        """Called with each message; the connection awaits the result, if there is one, before the next message."""
        try:
            message = decode(text, ClientMessage)
        except msgspec.DecodeError as error:
            connection.send_error(None, "invalid", str(error))
            return None
        if message.watch is not None:
            self._subscribe(connection, message.watch, message.version, message.job_id, message.log)
        elif message.unwatch is not None:
            self._registry.unsubscribe(connection, str(message.unwatch))
        elif message.cancel is not None:
            return self._cancel(connection, str(message.cancel))
        elif message.list is not None and connection.spend_list():
            live_filter, limit = message.filter or ListFilter(), message.limit or DEFAULT_PAGE
            return self._lists.open(connection, message.list_id or "", message.list, live_filter, limit)
        elif message.unlist is not None:
            self._lists.close(connection, message.unlist)
        return None

    def _subscribe(
        self,
        connection: WebSocketConnection,
        token: str,
        version: int | None = None,
        job_id: UUID | None = None,
        log: int | None = None,
    ) -> None:
        request = self._auth.verify(token, version, connection.token_allowance, job_id)
        if not isinstance(request, RejectedToken):
            connection.has_subscribed = True
            self._registry.stop_log(connection, str(request.grant.job_id))
            self._registry.subscribe(connection, request._replace(log=log))
            return
        connection.send_error(request.job_id, request.code, request.message)
        if connection.token_allowance.is_exceeded:
            connection.close_over_limit("tokens", CloseCode.POLICY_VIOLATION, "too many invalid tokens")

    async def _cancel(self, connection: WebSocketConnection, job_id: str) -> None:
        structlog.contextvars.bind_contextvars(job_id=job_id)  # for this task's log lines
        rejected = await cancel_watched(connection, job_id, self._registry, self._store, self._auth)
        if rejected is not None:
            connection.send_error(rejected.job_id, rejected.code, rejected.message)
