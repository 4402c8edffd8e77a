"""The requests of clients of the classic hub at `/signalr`. Any replica may serve any of them.

The paths, parameters and answers are those of ASP.NET SignalR 2.4: https://github.com/SignalR/SignalR.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from weakref import WeakValueDictionary

import msgspec
from aiohttp import web
from websockets.frames import CloseCode

from headway.timestamp import Timestamp

from .....runtime.aiohttp_adapter import start_stream
from .....runtime.errors import BadRequest, Forbidden, HTTPProblem, NotFound, Unauthorized
from .....runtime.middleware import LONG_POLL
from .....runtime.request import JSON
from ....settings import NotifierSettings
from ...auth import WatchRequest, request_origin
from ...polling import close_if_sent_away
from ...registry import ConnectionRegistry
from ...websocket.handshake import open_websocket
from ..authorization import UNAUTHORIZED, ConnectionAuth
from ..connection_tokens import ConnectionId, ConnectionTokens
from ..responses import EVENT_HEADERS, HEADERS, POLL_S, postpone
from .calls import answer_call
from .connections import EVENT_PREFIX, ClassicConnection, ClassicEventStream, ClassicPoll, ClassicWebSocket
from .envelopes import encode_envelope
from .requests import ConnectionRequest, protocol_version, public_path, read_parameters

PATH = "/signalr"
# The hub is known by the end of its path, in any case; a proxy may have put a prefix in front of it.
PATTERN = f"(?i:(?:.*/)?{PATH[1:]})"
KEEP_ALIVE_TIMEOUT_S = 20
DISCONNECT_TIMEOUT_S = 6 * 3600  # the outage that a page survives: it gives up for good afterwards
CONNECTION_TIMEOUT_S = 110
CONNECT_TIMEOUT_S = 5
SCRIPT = files(__package__).joinpath("hubs.js").read_bytes()
SCRIPT_HEADERS = {**HEADERS, "Cache-Control": "public, max-age=3600"}
CONNECTION_IDS = uuid.UUID("6b1c6e52-3f0b-4d33-9e1e-7a5f5f0f8f10")
Authorization = WatchRequest | HTTPProblem  # the job, or why the client may no longer watch it
STARTED, PONG = b'{"Response":"started"}', b'{"Response":"pong"}'


class ClassicHandler:
    """Handles the requests of clients of the classic hub.

    Args:
        registry: has the connections.
        settings: their limits.
        auth: authorizes them.
        tokens: the tokens of connections.
    """

    def __init__(
        self, registry: ConnectionRegistry, settings: NotifierSettings, auth: ConnectionAuth, tokens: ConnectionTokens
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._auth = auth
        self._tokens = tokens
        self._open = WeakValueDictionary[str, ClassicConnection]()  # by id; those of this replica

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        hub = f"/{{signalr:{PATTERN}}}"
        return [
            web.get(f"{hub}/{{script:(?i:hubs|js)}}{{slash:/?}}", self.script, allow_head=False),
            web.get(f"{hub}/{{action}}", self.handle, allow_head=False),
            web.post(f"{hub}/{{action}}", self.handle),
        ]

    async def script(self, _request: web.Request) -> web.Response:
        """Answer with the script that makes `$.connection.jobProgressHub`."""
        return web.Response(body=SCRIPT, content_type="application/javascript", charset="utf-8", headers=SCRIPT_HEADERS)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handle a request of a client. Whether it is a GET or a POST differs among clients."""
        if request.query.get("callback"):
            raise Forbidden("JSONP is disabled.", code="jsonp_disabled")
        parameters = await read_parameters(request)
        match request.match_info["action"].lower():
            case "negotiate":
                return self._negotiate(request)
            case "ping":
                self._authorize(request)
                return _json(PONG)
            case "connect" | "reconnect" | "poll" as action:
                return await self._connect(request, parameters, is_new=action == "connect")
            case "start":
                self._connection(parameters)
                return _json(STARTED)
            case "send":
                self._connection(parameters)
                return self._send(parameters.get("data", ""))
            case "abort":
                self._end(self._connection(parameters).id)
                return web.Response(content_type="text/plain", headers=HEADERS)
        raise NotFound("There is no such page.")

    def _authorize(self, request: web.Request, version: int | None = None) -> WatchRequest:
        watch = self._auth.authorize(request, version)
        if watch is None:
            raise Unauthorized(UNAUTHORIZED)
        return watch

    def _negotiate(self, request: web.Request) -> web.Response:
        """Answer what the client needs to connect. Nothing is stored.

        A replica that stops answers, too: the client connects to another one, but would not negotiate again.
        """
        self._authorize(request)
        connection, token = self._tokens.issue(Timestamp.now())
        answer = {
            "Url": public_path(request),
            "ConnectionToken": token,
            "ConnectionId": str(uuid.uuid5(CONNECTION_IDS, connection.id)),
            "KeepAliveTimeout": KEEP_ALIVE_TIMEOUT_S,
            "DisconnectTimeout": DISCONNECT_TIMEOUT_S,
            "ConnectionTimeout": CONNECTION_TIMEOUT_S,
            "TryWebSockets": True,
            "ProtocolVersion": "{}.{}".format(*protocol_version(request.query)),
            "TransportConnectTimeout": CONNECT_TIMEOUT_S,
            "LongPollDelay": 0,
        }
        return self._answer(msgspec.json.encode(answer))

    def _connection(self, parameters: Mapping[str, str]) -> ConnectionId:
        """Return the connection that a request names; raise BadRequest if its token is missing or not valid."""
        token = parameters.get("connectionToken")
        if not token:
            raise BadRequest("Protocol error: Missing connection token.", field="connectionToken")
        connection = self._tokens.verify(token)
        if connection is None:
            raise BadRequest("The ConnectionId is in the incorrect format.", field="connectionToken")
        return connection

    def _send(self, data: str) -> web.Response:
        try:
            return _json(answer_call(data))
        except ValueError as error:
            raise BadRequest(f"The field is not valid: {error}.", field="data") from error

    async def _connect(
        self, request: web.Request, parameters: Mapping[str, str], *, is_new: bool
    ) -> web.StreamResponse:
        """Open a connection, or resume one.

        A client repeats a request to resume for hours, whatever the status of the answer. So one that may no longer
        watch its job gets its error over the connection, which ends it for good.
        """
        connect = ConnectionRequest.parse(self._connection(parameters), parameters, is_new=is_new)
        watch: Authorization
        try:
            watch = self._authorize(request, connect.cursor.version)
        except HTTPProblem as problem:
            if is_new:
                raise
            watch = problem
        match parameters.get("transport", "").lower():
            case "websockets":
                return self._open_websocket(request, watch, connect)
            case "serversentevents":
                return await self._stream(request, watch, connect)
            case "longpolling":
                return await self._poll(request, watch, connect)
        raise BadRequest("Protocol error: Unknown transport.", field="transport")

    def _begin(self, connection: ClassicConnection, watch: Authorization) -> None:
        """Watch a job on a connection, which replaces the one that its client had before."""
        self._end(connection.request.id)
        self._open[connection.request.id] = connection
        if isinstance(watch, HTTPProblem):
            connection.send_error(None, watch.code, watch.detail)
        else:
            self._registry.subscribe(connection, watch)

    def _end(self, connection_id: str) -> None:
        """End a connection if this replica has it. On another one, it ends when its client closes it."""
        connection = self._open.pop(connection_id, None)
        if connection is not None:
            connection.end(CloseCode.NORMAL_CLOSURE)

    def _open_websocket(
        self, request: web.Request, watch: Authorization, connect: ConnectionRequest
    ) -> web.StreamResponse:
        self._registry.ensure_available()
        create = partial(ClassicWebSocket, self._registry, self._settings, connect)
        websocket, response = open_websocket(request, create)
        if not websocket.closing:
            self._begin(websocket, watch)
        return response

    async def _stream(
        self, request: web.Request, watch: Authorization, connect: ConnectionRequest
    ) -> web.StreamResponse:
        self._registry.ensure_available()
        self._registry.ensure_capacity()
        response, chunked = await start_stream(request, EVENT_HEADERS, EVENT_PREFIX)
        if (transport := request.transport) is None:
            return response
        origin = request_origin(request)
        stream = ClassicEventStream(transport, origin, self._registry.backpressured, connect, chunked=chunked)
        with self._registry.serve(stream):
            if connect.is_new:
                stream.send(encode_envelope(connect.cursor, initial=True))
            self._begin(stream, watch)
            await stream.done.wait()
        return response

    async def _poll(self, request: web.Request, watch: Authorization, connect: ConnectionRequest) -> web.Response:
        if connect.is_new:
            self._end(connect.id)  # the client had another transport before
            return self._answer(encode_envelope(connect.cursor, initial=True))
        request[LONG_POLL] = True
        self._registry.ensure_capacity()
        if self._registry.draining or request.transport is None:
            await postpone()
            return self._answer(encode_envelope(connect.cursor))
        poll = ClassicPoll(request.transport, request_origin(request), connect)
        with self._registry.serve(poll):
            self._begin(poll, watch)
            await poll.wait_until_ready(POLL_S)
            poll.set_close_code(CloseCode.NORMAL_CLOSURE)
        return self._answer(poll.answer or encode_envelope(connect.cursor))

    def _answer(self, body: bytes) -> web.Response:
        return close_if_sent_away(self._registry, _json(body))


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type=JSON, charset="UTF-8", headers=HEADERS)
