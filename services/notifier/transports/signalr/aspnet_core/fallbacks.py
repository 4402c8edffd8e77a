"""Event streams and long polls of hub clients. Each request may reach another replica than the one before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import msgspec
from aiohttp import web
from redis.exceptions import RedisError
from websockets.frames import CloseCode

from .....runtime.aiohttp_adapter import start_stream
from .....runtime.errors import NotFound
from .....runtime.middleware import LONG_POLL
from ...auth import request_origin, unavailable_without_store
from ...polling import close_if_sent_away
from ..authorization import ConnectionAuth
from ..connection_tokens import ConnectionId
from ..responses import EVENT_HEADERS, HEADERS, POLL_S, postpone
from .hub import Hub
from .inbox import Inbox, Notices, Poll
from .long_poll import HubPoll
from .session import HubSession
from .sse import FIRST_COMMENT, HubEventStream

HANDSHAKE_TIMEOUT_S = 15  # by the time of Redis; a connection that is older and has no session has lost it
RETRY_DELAY_S = 0.5
NO_CONNECTION = "There is no connection with this id."
SESSION_LOST = "The session of this connection is lost."
ReadMessages = Callable[[], Awaitable[list[bytes] | None]]  # None if the connection has ended
BINARY = "application/octet-stream"


class HubFallbacks:
    """Serves event streams and polls.

    Args:
        hub: what all sessions use.
        auth: authorizes connections.
        inbox: the messages of the connections.
    """

    def __init__(self, hub: Hub, auth: ConnectionAuth, inbox: Inbox) -> None:
        self._hub = hub
        self._auth = auth
        self._inbox = inbox

    async def stream(self, request: web.Request, connection: ConnectionId) -> web.StreamResponse:
        """Serve an event stream.

        Raises:
            HTTPProblem: the token for the job is not accepted, the connection has ended, or too many are open.
        """
        first = self._auth.authorize(request)
        self._hub.registry.ensure_available()
        self._hub.registry.ensure_capacity()
        with unavailable_without_store():
            messages = await self._inbox.take(connection.id)
        if messages is None:
            raise NotFound(NO_CONNECTION, field="id")
        response, chunked = await start_stream(request, EVENT_HEADERS, FIRST_COMMENT)
        if (transport := request.transport) is None:
            return response
        stream = HubEventStream(self._hub, transport, request_origin(request), first, chunked=chunked)
        with self._hub.registry.serve(stream), self._inbox.notices(connection.id) as notices:
            take = partial(self._inbox.take, connection.id)
            async with self._receiving(stream.session, messages, notices, take, stream.done):
                await stream.done.wait()
            stream.set_close_code(CloseCode.NORMAL_CLOSURE)
        with suppress(RedisError, OSError):
            await self._inbox.close(connection.id)
        return response

    async def poll(self, request: web.Request, connection: ConnectionId) -> web.Response:
        """Answer a poll: 200 with messages or nothing, 204 if a later one has begun or the connection has ended.

        Raises:
            HTTPProblem: the token for the job is not accepted, the connection had ended before, its session is lost, or
                too many connections are open.
        """
        request[LONG_POLL] = True
        self._hub.registry.ensure_capacity()
        if self._hub.registry.draining:
            return await self._postpone()
        try:
            poll = await self._inbox.begin_poll(connection.id)
        except (RedisError, OSError):
            return await self._postpone()
        if poll is None:
            raise NotFound(NO_CONNECTION, field="id")
        first = None if poll.state else self._auth.authorize(request)  # the session has what it was authorized for
        if poll.number == 1:
            return self._answer(b"")  # the first one shows the client that it can poll
        age_s = (self._hub.store.clock.now() - connection.issued_at) / 1000
        if not poll.state and not poll.messages and age_s > HANDSHAKE_TIMEOUT_S:
            raise NotFound(SESSION_LOST, field="id")
        if (transport := request.transport) is None:  # the client has left during the last step
            return self._answer(b"")
        hub_poll = HubPoll(self._hub, transport, request_origin(request), first, age_s)
        try:
            return await self._serve(hub_poll, connection, poll)
        except (RedisError, OSError):
            return await self._postpone()  # the next poll goes on with the session before this one

    async def _serve(self, hub_poll: HubPoll, connection: ConnectionId, poll: Poll) -> web.Response:
        with self._hub.registry.serve(hub_poll), self._inbox.notices(connection.id) as notices:
            notices.poll = poll.number
            if poll.state:
                _restore(hub_poll.session, poll.state)
            async with self._receiving(hub_poll.session, poll.messages, notices, poll.read, hub_poll.ready):
                await hub_poll.wait_until_ready(POLL_S)
            hub_poll.set_close_code(CloseCode.NORMAL_CLOSURE)
        if hub_poll.is_closing:
            return self._answer(b"")  # which the client does not get, so the session is not saved
        answer = b"".join(hub_poll.messages)
        if hub_poll.session.has_ended:
            await self._inbox.close(connection.id)
            goes_on = bool(answer)
        else:
            goes_on = await poll.save(hub_poll.session.dump())
        return self._answer(answer) if goes_on else web.Response(status=204, headers=HEADERS)

    async def _postpone(self) -> web.Response:
        """Return an empty answer after a moment: this replica is stopping, or Redis is unavailable."""
        await postpone()
        return self._answer(b"")

    def _answer(self, messages: bytes) -> web.Response:
        response = web.Response(body=messages, content_type=BINARY, headers=HEADERS)
        return close_if_sent_away(self._hub.registry, response)

    @asynccontextmanager
    async def _receiving(
        self, session: HubSession, messages: list[bytes], notices: Notices, read: ReadMessages, done: asyncio.Event
    ) -> AsyncIterator[None]:
        """Handle messages, and those that follow, until the block ends. Set `done` if the connection has ended."""
        receiving = asyncio.create_task(_receive(session, messages, notices, read))
        receiving.add_done_callback(lambda _task: done.set())
        try:
            yield
        finally:
            notices.stop()
            await receiving  # not cancelled: a message that was read must be handled


async def _receive(session: HubSession, messages: list[bytes] | None, notices: Notices, read: ReadMessages) -> None:
    while messages is not None:
        for message in messages:
            await session.receive(message)
        await notices.changed.wait()
        notices.changed.clear()
        if notices.has_ended:
            return
        try:
            messages = await read()
        except (RedisError, OSError):
            await asyncio.sleep(RETRY_DELAY_S)
            notices.changed.set()
            messages = []


def _restore(session: HubSession, state: bytes) -> None:
    try:
        session.restore(state)
    except msgspec.DecodeError as error:  # another release or another program has stored it
        raise NotFound(SESSION_LOST, field="id") from error
