"""The requests of clients of the classic hub at `/signalr`. Any replica may serve any of them.

The paths, parameters and answers are those of ASP.NET SignalR 2.4: https://github.com/SignalR/SignalR.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

import msgspec
from aiohttp import web
from websockets.frames import CloseCode

from headway.contracts import decode
from headway.timestamp import Timestamp

from .....runtime.aiohttp_adapter import start_stream
from .....runtime.errors import BadRequest, NotFound, Unauthorized
from .....runtime.middleware import LONG_POLL
from .....runtime.request import JSON, read_body
from ....settings import NotifierSettings
from ...auth import WatchRequest
from ...event_format import STREAM_HEADERS
from ...polling import close_if_sent_away, wait_until_ready
from ...registry import ConnectionRegistry
from ...websocket.handshake import open_websocket
from ..authorization import UNAUTHORIZED, ConnectionAuth
from ..connection_tokens import ConnectionTokens
from ..polling import POLL_S, postpone
from .calls import MAX_CALL_BYTES, answer_call
from .connections import EVENT_PREFIX, ClassicEventStream, ClassicPoll, ClassicWebSocket, Position
from .envelopes import HUB, Cursor, encode_envelope

PATH = "/signalr"
MIN_PROTOCOL, MAX_PROTOCOL = (1, 2), (2, 0)
KEEP_ALIVE_TIMEOUT_S = 20
DISCONNECT_TIMEOUT_S = 6 * 3600  # the outage that a page survives: it gives up for good afterwards
CONNECTION_TIMEOUT_S = 110
CONNECT_TIMEOUT_S = 5
MAX_FIELDS = 20  # of a form
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
EVENT_HEADERS = {**HEADERS, **STREAM_HEADERS}
SCRIPT = files(__package__).joinpath("hubs.js").read_bytes()
SCRIPT_HEADERS = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}
CONNECTION_IDS = uuid.UUID("6b1c6e52-3f0b-4d33-9e1e-7a5f5f0f8f10")
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

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        path = f"{PATH}/{{action}}"
        return [
            web.get(path, self.get, allow_head=False),
            web.post(path, self.post),
            web.get(f"{path}/", self.script, allow_head=False),
        ]

    async def script(self, request: web.Request) -> web.Response:
        """Answer with the script that makes `$.connection.jobProgressHub`, for `hubs/` and `js/`."""
        if request.match_info["action"].lower() not in ("hubs", "js"):
            raise NotFound("There is no such page.")
        return web.Response(body=SCRIPT, content_type="application/javascript", charset="utf-8", headers=SCRIPT_HEADERS)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Handle a GET request."""
        match request.match_info["action"].lower():
            case "hubs" | "js":
                return await self.script(request)
            case "negotiate":
                return self._negotiate(request)
            case "ping":
                self._auth.authorize(request)
                return _json(PONG)
            case "start":
                self._check(request, {})
                return _json(STARTED)
            case "connect" | "reconnect" | "poll" as action:
                return await self._connect(request, action, {})
        raise NotFound("There is no such page.")

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Handle a POST request, whose body is a form."""
        action = request.match_info["action"].lower()
        form = _parse_form(await read_body(request, MAX_CALL_BYTES))
        match action:
            case "connect" | "reconnect" | "poll":
                return await self._connect(request, action, form)
            case "send":
                self._check(request, form)
                return self._send(request.query.get("data") or form.get("data", ""))
            case "abort":  # the connection itself ends when its client closes it
                return web.Response(content_type="text/plain", headers=HEADERS)
        raise NotFound("There is no such page.")

    def _negotiate(self, request: web.Request) -> web.Response:
        """Answer what the client needs to connect. Nothing is stored."""
        self._registry.ensure_available()
        if self._auth.authorize(request) is None:
            raise Unauthorized(UNAUTHORIZED)
        connection, token = self._tokens.issue(Timestamp.now())
        answer = {
            "Url": PATH,
            "ConnectionToken": token,
            "ConnectionId": str(uuid.uuid5(CONNECTION_IDS, connection.id)),
            "KeepAliveTimeout": KEEP_ALIVE_TIMEOUT_S,
            "DisconnectTimeout": DISCONNECT_TIMEOUT_S,
            "ConnectionTimeout": CONNECTION_TIMEOUT_S,
            "TryWebSockets": True,
            "ProtocolVersion": _protocol_version(request.query.get("clientProtocol", "")),
            "TransportConnectTimeout": CONNECT_TIMEOUT_S,
            "LongPollDelay": 0,
        }
        return _json(msgspec.json.encode(answer))

    def _check(self, request: web.Request, form: Mapping[str, str]) -> None:
        """Raise BadRequest if the token of the connection is missing or not valid."""
        token = request.query.get("connectionToken") or form.get("connectionToken")
        if not token:
            raise BadRequest("Protocol error: Missing connection token.", field="connectionToken")
        if self._tokens.verify(token) is None:
            raise BadRequest("The ConnectionId is in the incorrect format.", field="connectionToken")

    def _send(self, data: str) -> web.Response:
        try:
            return _json(answer_call(data))
        except ValueError as error:
            raise BadRequest(f"The field is not valid: {error}.", field="data") from error

    async def _connect(self, request: web.Request, action: str, form: Mapping[str, str]) -> web.StreamResponse:
        """Open a connection, or resume one."""
        self._check(request, form)
        is_new = action == "connect"
        cursor = Cursor() if is_new else Cursor.parse(form.get("messageId") or request.query.get("messageId"))
        watch = self._auth.authorize(request, cursor.version)
        if watch is None:
            raise Unauthorized(UNAUTHORIZED)
        position = Position(cursor, _has_hub(request.query.get("connectionData", "")), is_new)
        match request.query.get("transport", "").lower():
            case "websockets":
                return self._open_websocket(request, watch, position)
            case "serversentevents":
                return await self._stream(request, watch, position)
            case "longpolling":
                return await self._poll(request, watch, position)
        raise BadRequest("Protocol error: Unknown transport.", field="transport")

    def _open_websocket(self, request: web.Request, watch: WatchRequest, position: Position) -> web.StreamResponse:
        self._registry.ensure_available()
        create = partial(ClassicWebSocket, self._registry, self._settings, position)
        websocket, response = open_websocket(request, create)
        if not websocket.closing:
            self._registry.subscribe(websocket, watch)
        return response

    async def _stream(self, request: web.Request, watch: WatchRequest, position: Position) -> web.StreamResponse:
        self._registry.ensure_available()
        self._registry.ensure_capacity()
        response, chunked = await start_stream(request, EVENT_HEADERS)
        transport = request.transport
        if transport is None:
            return response
        await response.write(EVENT_PREFIX)  # with the headers; later writes bypass aiohttp
        origin = request.headers.get("Origin")
        stream = ClassicEventStream(transport, origin, self._registry.backpressured, position, chunked=chunked)
        with self._registry.serve(stream):
            if position.is_new:
                stream.send(encode_envelope(position.cursor, initial=True))
            self._registry.subscribe(stream, watch)
            await stream.done.wait()
        return response

    async def _poll(self, request: web.Request, watch: WatchRequest, position: Position) -> web.Response:
        if position.is_new:
            return self._answer(encode_envelope(position.cursor, initial=True))
        request[LONG_POLL] = True
        self._registry.ensure_capacity()
        if self._registry.draining or request.transport is None:
            await postpone()
            return self._answer(encode_envelope(position.cursor))
        poll = ClassicPoll(request.transport, position)
        with self._registry.serve(poll):
            self._registry.subscribe(poll, watch)
            await wait_until_ready(poll.ready, POLL_S)
            poll.set_close_code(CloseCode.NORMAL_CLOSURE)
        return self._answer(poll.answer or encode_envelope(position.cursor))

    def _answer(self, envelope: bytes) -> web.Response:
        return close_if_sent_away(self._registry, _json(envelope))


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type=JSON, charset="UTF-8", headers=HEADERS)


def _parse_form(body: bytes) -> dict[str, str]:
    try:
        fields = parse_qs(body.decode(errors="replace"), max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise BadRequest(f"The form has more than {MAX_FIELDS} fields.") from error
    return {name: values[-1] for name, values in fields.items()}


def _protocol_version(asked: str) -> str:
    """Return the protocol version for a client: the one that it asks for, if the server has it."""
    match = re.fullmatch(r"(\d{1,3})\.(\d{1,3})", asked, re.ASCII)
    version = (int(match[1]), int(match[2])) if match else MIN_PROTOCOL
    return "{}.{}".format(*min(max(version, MIN_PROTOCOL), MAX_PROTOCOL))


def _has_hub(connection_data: str) -> bool:
    """Return whether a client has the hub: clients list the hubs for which they have methods."""
    try:
        hubs = decode(connection_data, list[dict[str, Any]])
    except msgspec.DecodeError:
        return False
    return any(
        str(value).lower() == HUB.lower() for hub in hubs for name, value in hub.items() if name.lower() == "name"
    )
