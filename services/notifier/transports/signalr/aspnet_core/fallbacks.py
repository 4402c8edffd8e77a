"""Event streams and long polls of hub clients. Each request may reach another replica than the one before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web
from redis.exceptions import RedisError

from .....runtime.aiohttp_adapter import start_stream
from .....runtime.errors import NotFound
from .....runtime.middleware import LONG_POLL
from ...auth import WatchRequest
from ...event_format import STREAM_HEADERS
from ...polling import close_if_sent_away, wait_until_ready
from ..connection_tokens import ConnectionId
from ..polling import POLL_S, postpone
from .inbox import Inbox, Notices
from .long_poll import HubPoll
from .session import Hub, HubSession
from .session_state import SessionState
from .sse import FIRST_COMMENT, HubEventStream

HANDSHAKE_TIMEOUT_S = 15  # by the time of Redis; a connection that is older and has no session has lost it
RETRY_DELAY_S = 0.5
POLL_HEADERS = {"Cache-Control": "no-store"}
BINARY = "application/octet-stream"


class HubFallbacks:
    """Serves event streams and polls."""

    def __init__(self, hub: Hub, inbox: Inbox) -> None:
        self._hub = hub
        self._inbox = inbox

    async def stream(
        self, request: web.Request, connection: ConnectionId, first: WatchRequest | None
    ) -> web.StreamResponse:
        """Serve an event stream."""
        self._hub.registry.ensure_available()
        self._hub.registry.ensure_capacity()
        response, chunked = await start_stream(request, STREAM_HEADERS)
        transport = request.transport
        if transport is None:
            return response
        await response.write(FIRST_COMMENT)  # with the headers; later writes bypass aiohttp
        stream = HubEventStream(self._hub, transport, request.headers.get("Origin"), first, chunked=chunked)
        with self._hub.registry.serve(stream), self._inbox.notices(connection.id) as notices:
            async with self._receiving(stream, connection, notices, stream.done):
                await stream.done.wait()
        return response

    async def poll(self, request: web.Request, connection: ConnectionId, first: WatchRequest | None) -> web.Response:
        """Answer a poll: 200 with messages or nothing, 204 if the connection has ended.

        Raises:
            NotFound: the session of the connection is lost.
            ServiceUnavailable: too many connections are open.
        """
        request[LONG_POLL] = True
        self._hub.registry.ensure_capacity()
        if self._hub.registry.draining:
            return await self._postpone()
        try:
            poll = await self._inbox.begin_poll(connection.id)
        except (RedisError, OSError):
            return await self._postpone()
        if poll.is_closed:
            return web.Response(status=204, headers=POLL_HEADERS)
        if poll.number == 1:
            return self._answer(b"")  # the first one shows the client that it can poll
        age_s = (self._hub.store.clock.now() - connection.issued_at) / 1000
        if poll.state is None and not poll.messages and age_s > HANDSHAKE_TIMEOUT_S:
            raise NotFound("The session of this connection is lost.", field="id")
        if (transport := request.transport) is None:  # the client has left during the last step
            return self._answer(b"")
        hub_poll = HubPoll(self._hub, transport, first)
        with self._hub.registry.serve(hub_poll), self._inbox.notices(connection.id) as notices:
            notices.poll = poll.number
            if poll.state is not None:
                hub_poll.session.restore(msgspec.json.decode(poll.state, type=SessionState))
            for message in poll.messages:
                await hub_poll.session.receive(message)
            async with self._receiving(hub_poll, connection, notices, hub_poll.ready):
                await wait_until_ready(hub_poll.ready, POLL_S)
        try:
            return await self._finish(hub_poll, connection, poll.number)
        except (RedisError, OSError):
            return await self._postpone()  # the next poll goes on with the state before this one

    async def _finish(self, poll: HubPoll, connection: ConnectionId, number: int) -> web.Response:
        """Store the session for the next poll, and answer this one."""
        state = poll.session.dump()
        if poll.session.has_ended:
            await self._inbox.close(connection.id)
        elif state is not None and not await self._inbox.save(connection.id, number, msgspec.json.encode(state)):
            return web.Response(status=204, headers=POLL_HEADERS)  # a later poll has begun
        return self._answer(b"".join(poll.messages))

    async def _postpone(self) -> web.Response:
        """Return an empty answer after a moment: this replica is stopping, or Redis is unavailable."""
        await postpone()
        return self._answer(b"")

    def _answer(self, messages: bytes) -> web.Response:
        response = web.Response(body=messages, content_type=BINARY, headers=POLL_HEADERS)
        return close_if_sent_away(self._hub.registry, response)

    @asynccontextmanager
    async def _receiving(
        self, hub_connection: HubEventStream | HubPoll, connection: ConnectionId, notices: Notices, done: asyncio.Event
    ) -> AsyncIterator[None]:
        """Handle what the client sends until the block ends. Set `done` if the connection has ended."""
        receiving = asyncio.create_task(self._receive(hub_connection.session, connection, notices))
        receiving.add_done_callback(lambda _task: done.set())
        try:
            yield
        finally:
            notices.stop()
            await receiving  # not cancelled: a message that was taken must be handled

    async def _receive(self, session: HubSession, connection: ConnectionId, notices: Notices) -> None:
        while True:
            await notices.changed.wait()
            notices.changed.clear()
            if notices.has_ended:
                return
            try:
                messages = await self._inbox.take(connection.id)
            except (RedisError, OSError):
                await asyncio.sleep(RETRY_DELAY_S)
                notices.changed.set()
                continue
            for message in messages:
                await session.receive(message)
