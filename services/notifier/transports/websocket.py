"""WebSocket: any number of watched jobs on one connection."""

from __future__ import annotations

from collections.abc import Coroutine
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Struct
from redis.exceptions import RedisError

from headway.contracts import Natural, Timestamp, decode
from headway.tokens import CANCEL
from services.notifier.frames import CloseCode, Opcode, frame
from services.notifier.records import Records
from services.notifier.settings import NotifierSettings
from services.notifier.transports.access import Access, Refused, Token, presented_token
from services.notifier.transports.connection import Connection
from services.notifier.transports.outlet import RETRY_AFTER_S, Outlets
from services.notifier.transports.upgrade import accept_of, hand_over
from services.runtime.errors import ServiceUnavailable


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


class Sockets:
    """Takes sockets and hears what they ask."""

    def __init__(self, outlets: Outlets, records: Records, access: Access, settings: NotifierSettings) -> None:
        self._outlets = outlets
        self._records = records
        self._access = access
        self.settings = settings

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [web.get("/live", self.connect, allow_head=False)]

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """Open a connection; from then on it lives by itself."""
        if self._outlets.draining:
            raise ServiceUnavailable("This replica is stopping; connect again.", retry_after_s=RETRY_AFTER_S)
        accept = accept_of(request)
        if request.transport is None:
            raise ConnectionResetError
        connection = Connection(self, request.transport, request.headers.get("Origin"))
        token = presented_token(request)
        answer = hand_over(request, accept, connection)
        if token is not None and not connection.closing:
            self._watch(connection, token, None)
        return answer

    def opened(self, connection: Connection) -> None:
        """Greet a connection, or say that it is one too many, in a frame: a browser sees nothing of an HTTP answer."""
        if self._outlets.full():
            connection.close(CloseCode.TRY_LATER, "too many connections")
        else:
            self._outlets.opened(connection)
            connection.write(frame(Opcode.TEXT, b'{"hello":{"now":"%b"}}' % str(Timestamp.now()).encode()))

    def drained(self, connection: Connection) -> None:
        """Show a connection what it has missed."""
        self._outlets.resume(connection)

    def lost(self, connection: Connection) -> None:
        """Forget a connection."""
        self._outlets.closed(connection)

    def heard(self, connection: Connection, text: str) -> Coroutine[None, None, None] | None:
        """Do what a message asks."""
        try:
            asked = decode(text, Request)
        except msgspec.DecodeError as error:
            connection.tell(None, "invalid", str(error))
            return None
        if asked.watch is not None:
            self._watch(connection, asked.watch, asked.version)
        elif asked.unwatch is not None:
            self._outlets.unwatch(connection, str(asked.unwatch))
        else:
            return self._cancel(connection, str(asked.cancel))
        return None

    def _watch(self, connection: Connection, token: str, version: int | None) -> None:
        granted = self._access.grant(token)
        if isinstance(granted, Refused):
            connection.tell(granted.job_id, granted.code, granted.message)
            return
        connection.asked = True
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
