"""WebSocket: any number of watched jobs on one connection.

Snapshots bypass aiohttp's writer: the same ready frame goes to every connection, and nobody is awaited.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from uuid import UUID

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMsgType, web
from msgspec import Struct
from redis.exceptions import RedisError

from headway.contracts import Natural, Timestamp, decode
from headway.tokens import CANCEL
from services.allowance import Allowance
from services.notifier import metrics
from services.notifier.hub import Snapshot, text_frame
from services.notifier.records import Records
from services.notifier.settings import NotifierSettings
from services.notifier.transports.access import Access, Refused, Token, presented_token
from services.notifier.transports.outlet import RETRY_AFTER_S, Outlets, Pipe
from services.problems import Unavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MESSAGE_BYTES = 64 * 1024
PING = b"\x89\x00"
CLOSE_S = 3.0
SILENT_PINGS = 2.5  # a peer that says nothing for so many of them is gone


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """What a client may ask: one of `watch`, `unwatch` and `cancel`."""

    watch: Token | None = None
    version: Natural | None = None
    unwatch: UUID | None = None
    cancel: UUID | None = None

    def __post_init__(self) -> None:
        if (self.watch, self.unwatch, self.cancel).count(None) != 2:
            raise ValueError("Expected one of `watch`, `unwatch` and `cancel`")
        if self.version is not None and self.watch is None:
            raise ValueError("Expected `version` beside `watch` only")


class Connection(Pipe):
    """One open socket."""

    transport = "websocket"

    def __init__(
        self, socket: web.WebSocketResponse, connection: asyncio.Transport, settings: NotifierSettings
    ) -> None:
        super().__init__(connection)
        self.socket = socket
        self.asked = False  # whether it has sent anything that makes sense
        self._heard_at = self._opened_at = now = time.monotonic()
        self._closing: asyncio.Task[None] | None = None
        self._settings = settings
        # A page asks for all its jobs at once, and cancels and leaves them at once.
        self._allowance = Allowance(settings.messages_per_s, settings.messages_per_s + 2 * settings.max_watches, now)

    @property
    def code(self) -> int:
        """Tell how it closed."""
        return int(self.socket.close_code or WSCloseCode.ABNORMAL_CLOSURE)

    def hear(self) -> bool:
        """Take that a message came; tell whether that was one too many."""
        self._heard_at = now = time.monotonic()
        return self._allowance.take(now) > 0

    def spell(self, snapshot: Snapshot) -> bytes:
        """Return a snapshot as a frame."""
        return snapshot.frame

    def spell_error(self, error: dict[str, str]) -> bytes:
        """Return an error as a frame."""
        return text_frame(msgspec.json.encode({"error": error}))

    def write(self, data: bytes) -> None:
        """Write a ready frame, unless the connection is closing: nothing may follow a close frame."""
        if not self.socket.closed:
            super().write(data)

    def beat(self) -> None:
        """Ping the peer, or end the connection when it has been silent for too long."""
        if time.monotonic() - self._heard_at > SILENT_PINGS * self._settings.ping_s:
            self.abort()
        else:
            self.write(PING)

    async def end(self) -> None:
        """Close, since the service restarts."""
        self.flush()
        await self._close(WSCloseCode.SERVICE_RESTART, b"restarting")

    def check(self) -> None:
        """Close a connection that asks for nothing; one whose peer has left ends by itself."""
        late = time.monotonic() - self._opened_at > self._settings.first_message_s
        if late and not self.asked and self._closing is None:
            refusal = self.refuse("first_message", WSCloseCode.POLICY_VIOLATION, "ask for something")
            self._closing = asyncio.create_task(refusal)

    def give_up(self) -> None:
        """Close with a code, which a peer that begins to read still gets."""
        if self._closing is None:
            refusal = self.refuse("stuck", WSCloseCode.TRY_AGAIN_LATER, "reads too slowly")
            self._closing = asyncio.create_task(refusal)

    async def refuse(self, limit: str, code: WSCloseCode, reason: str) -> None:
        """Close, since the client asks for more than it may."""
        metrics.REFUSED.labels(limit).inc()
        await self._close(code, reason.encode())

    async def _close(self, code: WSCloseCode, reason: bytes) -> None:
        """Close, and wait for the peer to agree; one that reads nothing never does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.socket.close(code=code, message=reason)
        self.abort()


class Sockets:
    """Takes sockets and hears what they ask."""

    def __init__(self, outlets: Outlets, records: Records, access: Access, settings: NotifierSettings) -> None:
        self._outlets = outlets
        self._records = records
        self._access = access
        self._settings = settings

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [web.get("/live", self.connect, allow_head=False)]

    async def connect(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection until it closes."""
        if self._outlets.draining:
            raise Unavailable("This replica is stopping; connect again.", retry_after_s=RETRY_AFTER_S)
        full = self._outlets.full()
        socket = web.WebSocketResponse(compress=False, autoping=False, max_msg_size=16 * MESSAGE_BYTES)
        await socket.prepare(request)
        if full:  # told behind the handshake, since a browser sees nothing of an answer before it
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"too many connections")
        elif request.transport is not None:
            connection = Connection(socket, request.transport, self._settings)
            with self._outlets.open(connection, request):
                await self._serve(connection, request)
            if (error := socket.exception()) is not None:  # of a lost connection; its frames know the socket: a cycle
                error.__traceback__ = error.__context__ = None
        return socket

    async def _serve(self, connection: Connection, request: web.Request) -> None:
        connection.write(text_frame(b'{"hello":{"now":"%b"}}' % str(Timestamp.now()).encode()))
        token = presented_token(request)
        if token is not None:
            self._watch(connection, token, None)
        async for message in connection.socket:
            if connection.hear():
                await connection.refuse("messages", WSCloseCode.POLICY_VIOLATION, "too many messages")
            elif message.type is WSMsgType.PING:
                with suppress(ConnectionError):  # it has left meanwhile
                    await connection.socket.pong(message.data)
            elif message.type is WSMsgType.BINARY:
                await connection.refuse("binary", WSCloseCode.UNSUPPORTED_DATA, "send text")
            elif message.type is WSMsgType.TEXT and len(message.data) > MESSAGE_BYTES:
                await connection.refuse("message_size", WSCloseCode.MESSAGE_TOO_BIG, "too big")
            elif message.type is WSMsgType.TEXT:
                await self._take(connection, message.data)
            elif message.type is WSMsgType.ERROR and getattr(message.data, "code", None) == WSCloseCode.MESSAGE_TOO_BIG:
                metrics.REFUSED.labels("message_size").inc()  # so much too big that aiohttp has not even read it

    async def _take(self, connection: Connection, text: str) -> None:
        try:
            asked = decode(text, Request)
        except msgspec.DecodeError as error:
            connection.tell(None, "invalid", str(error))
            return
        if asked.watch is not None:
            self._watch(connection, asked.watch, asked.version)
            await asyncio.sleep(0)  # a signature takes a quarter of a millisecond, and others are waiting
        elif asked.unwatch is not None:
            self._outlets.unwatch(connection, str(asked.unwatch))
        else:
            await self._cancel(connection, str(asked.cancel))

    def _watch(self, connection: Connection, token: str, version: int | None) -> None:
        granted = self._access.grant(token)
        if isinstance(granted, Refused):
            connection.tell(granted.job_id, granted.code, granted.message)
            return
        connection.asked = True
        connection.behind.pop(str(granted.job_id), None)
        self._outlets.watch(connection, granted, version)

    async def _cancel(self, connection: Connection, job_id: str) -> None:
        watch = connection.watches.get(job_id)
        if watch is None:
            connection.tell(job_id, "not_watched", "Watch the job first: its token says whether you may cancel it.")
        elif CANCEL not in watch.granted.scope or watch.granted.expired(Timestamp.now()):
            connection.tell(job_id, "forbidden", "The token does not allow to cancel.")
        else:
            try:
                await self._records.cancel(watch.granted)
            except (RedisError, OSError):
                connection.tell(job_id, "unavailable", "The records are away; try again.")
