"""WebSocket: any number of watched jobs on one connection, and no task, timer or queue of its own for any of them.

Snapshots bypass aiohttp's writer: the same ready frame goes to every transport, and nobody is awaited. A connection
over its buffer limit keeps the newest snapshot of each job instead, and gets it once it drains.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated
from uuid import UUID

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMsgType, web
from msgspec import Meta, Struct
from redis.exceptions import RedisError

from headway.contracts import Natural, Timestamp, decode
from headway.tokens import CANCEL, InvalidToken, TokenVerifier, claimed_job
from services.notifier import metrics
from services.notifier.hub import Snapshot, Watch, text_frame
from services.notifier.live import Live
from services.notifier.records import Records
from services.notifier.transports.access import RETRY_AFTER_S, presented_token
from services.problems import Unavailable, check_origin
from services.settings import WatchedFile

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MESSAGE_BYTES = 64 * 1024
BUFFER_BYTES = 256 * 1024  # what may wait in a transport before its connection counts as slow
FLUSH_S = 0.1
PING = b"\x89\x00"


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """What a client may ask: one of `watch`, `unwatch` and `cancel`."""

    watch: Annotated[str, Meta(max_length=4096)] | None = None
    version: Natural | None = None
    unwatch: UUID | None = None
    cancel: UUID | None = None

    def __post_init__(self) -> None:
        if (self.watch, self.unwatch, self.cancel).count(None) != 2:
            raise ValueError("Expected one of `watch`, `unwatch` and `cancel`")


class Connection:
    """One open socket."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        self.socket = socket
        self.watches: dict[str, Watch] = {}
        self.heard_at = time.monotonic()
        self.behind: dict[str, Snapshot] = {}
        self._transport = transport

    def push(self, job_id: str, snapshot: Snapshot) -> None:
        """Write a snapshot, or keep it while the connection is slow."""
        if self.slow():
            self.behind[job_id] = snapshot
        else:
            self.write(snapshot.frame)

    def tell(self, job_id: str | None, code: str, message: str) -> None:
        """Write an error; who asks much and reads nothing is cut off."""
        if self.slow():
            self.abort()
            return
        about = {} if job_id is None else {"job_id": job_id}
        self.write(text_frame(msgspec.json.encode({"error": {"code": code, "message": message, **about}})))

    def slow(self) -> bool:
        """Tell whether too much waits already."""
        return self._transport.get_write_buffer_size() > BUFFER_BYTES

    def write(self, frame: bytes) -> None:
        """Write a ready frame, unless the connection is closing: nothing may follow a close frame."""
        if not (self.socket.closed or self._transport.is_closing()):
            self._transport.write(frame)

    def flush(self) -> None:
        """Write what was kept, as far as the connection takes it."""
        while self.behind and not self.slow():
            job_id, snapshot = self.behind.popitem()
            if job_id in self.watches:
                self.write(snapshot.frame)

    def abort(self) -> None:
        """End the connection without a word: its peer is gone."""
        self._transport.abort()


class Sockets:
    """Takes connections, hears what they ask, and closes them evenly when the service stops."""

    def __init__(self, live: Live, records: Records, verifier: WatchedFile[TokenVerifier],
                 origins: tuple[str, ...], ping_s: float) -> None:  # fmt: skip
        self._live = live
        self._records = records
        self._verifier = verifier
        self._origins = origins
        self._ping_s = ping_s
        self._open: set[Connection] = set()
        self._draining = False

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [web.get("/live", self.connect)]

    async def connect(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection until it closes."""
        check_origin(request, self._origins)
        if self._draining:
            raise Unavailable("This replica is stopping; connect again.", retry_after_s=RETRY_AFTER_S)
        socket = web.WebSocketResponse(compress=False, autoping=False, max_msg_size=16 * MESSAGE_BYTES)
        await socket.prepare(request)
        transport = request.transport
        if transport is None:
            return socket  # gone while it was greeted
        connection = Connection(socket, transport)
        self._open.add(connection)
        metrics.CONNECTIONS.labels("websocket").inc()
        opened = time.monotonic()
        log.info("connection_opened", transport="websocket", origin=request.headers.get("Origin"))
        try:
            connection.write(text_frame(b'{"hello":{"now":"%b"}}' % str(Timestamp.now()).encode()))
            token = presented_token(request)
            if token is not None:
                self._watch(connection, token, None)
            await self._hear(connection)
        finally:
            self._open.discard(connection)
            for watch in connection.watches.values():
                self._live.unwatch(watch)
            metrics.CONNECTIONS.labels("websocket").dec()
            duration_s = round(time.monotonic() - opened, 3)
            log.info(
                "connection_closed", transport="websocket", code=int(socket.close_code or 1006), duration_s=duration_s
            )
        return socket

    async def _hear(self, connection: Connection) -> None:
        async for message in connection.socket:
            connection.heard_at = time.monotonic()
            if message.type is WSMsgType.PING:
                await connection.socket.pong(message.data)
            elif message.type is WSMsgType.BINARY:
                await connection.socket.close(code=WSCloseCode.UNSUPPORTED_DATA, message=b"send text")
            elif message.type is WSMsgType.TEXT and len(message.data) > MESSAGE_BYTES:
                await connection.socket.close(code=WSCloseCode.MESSAGE_TOO_BIG, message=b"too big")
            elif message.type is WSMsgType.TEXT:
                try:
                    asked = decode(message.data, Request)
                except msgspec.DecodeError as error:
                    connection.tell(None, "invalid", str(error))
                else:
                    await self._serve(connection, asked)

    async def _serve(self, connection: Connection, asked: Request) -> None:
        if asked.watch is not None:
            self._watch(connection, asked.watch, asked.version)
        elif asked.unwatch is not None:
            watch = connection.watches.pop(str(asked.unwatch), None)
            if watch is not None:
                self._live.unwatch(watch)
        else:
            await self._cancel(connection, str(asked.cancel))

    def _watch(self, connection: Connection, token: str, version: int | None) -> None:
        try:
            granted = self._verifier.value.verify(token)
        except InvalidToken as error:
            job_id = error.job_id or claimed_job(token)  # the client has many tokens: tell it which one is wrong
            connection.tell(None if job_id is None else str(job_id), error.code, str(error))
            return
        watch = Watch(connection, granted, version)
        connection.watches[watch.job_id] = watch
        connection.behind.pop(watch.job_id, None)
        self._live.watch(watch)

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

    async def sweep(self) -> None:
        """Flush slow connections often; ping all of them, and end the dead, now and then."""
        pinged_at = time.monotonic()
        while True:
            await asyncio.sleep(FLUSH_S)
            for connection in [one for one in self._open if one.behind]:
                connection.flush()
            now = time.monotonic()
            if now - pinged_at >= self._ping_s:
                pinged_at = now
                for connection in list(self._open):
                    if now - connection.heard_at > 2.5 * self._ping_s:
                        connection.abort()
                    else:
                        connection.write(PING)

    async def drain(self, seconds: float) -> None:
        """Refuse new connections, and close the open ones evenly over that time, so that others take them up evenly."""
        self._draining = True
        connections = list(self._open)
        async with asyncio.TaskGroup() as closing:
            for connection in connections:
                closing.create_task(self._close(connection))
                await asyncio.sleep(seconds / len(connections))

    @staticmethod
    async def _close(connection: Connection) -> None:
        connection.flush()
        await connection.socket.close(code=WSCloseCode.SERVICE_RESTART, message=b"restarting")
