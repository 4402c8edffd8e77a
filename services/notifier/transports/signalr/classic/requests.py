"""What the requests of clients say. Which parameters are in the query, and which in a form, differs among clients."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from headway.contracts import decode

from .....runtime.errors import BadRequest
from .....runtime.request import read_body
from ..connection_tokens import ConnectionId
from .calls import MAX_CALL_BYTES
from .envelopes import HUB, Cursor, ProtocolVersion

MIN_PROTOCOL, MAX_PROTOCOL = (1, 2), (2, 0)
MAX_FIELDS = 20  # of a form
PREFIX_HEADER, PREFIX = "X-Forwarded-Prefix", re.compile(r"(?:/[\w.~-]+)+", re.ASCII)


class ConnectionRequest(NamedTuple):
    """A request that opens or resumes a connection.

    Attributes:
        id: the id of the connection, which the client keeps when it resumes.
        cursor: what the client has.
        is_subscribed: whether the client has the hub.
        is_new: whether the connection is new to the client.
        protocol: the version of the client's protocol.
    """

    id: str
    cursor: Cursor
    is_subscribed: bool
    is_new: bool
    protocol: ProtocolVersion

    @classmethod
    def parse(cls, connection: ConnectionId, parameters: Mapping[str, str], *, is_new: bool) -> ConnectionRequest:
        """Return what the parameters of a request say."""
        cursor = Cursor() if is_new else Cursor.parse(parameters.get("messageId"))
        is_subscribed = _has_hub(parameters.get("connectionData", ""))
        return cls(connection.id, cursor, is_subscribed, is_new, protocol_version(parameters))


async def read_parameters(request: web.Request) -> dict[str, str]:
    """Return the parameters of a request."""
    body = await read_body(request, MAX_CALL_BYTES)
    try:
        form = parse_qs(body.decode(errors="replace"), max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise BadRequest(f"The form has more than {MAX_FIELDS} fields.") from error
    return {name: values[-1] for name, values in form.items()} | dict(request.query)


def public_path(request: web.Request) -> str:
    """Return the path of the hub as its clients request it. A proxy that has removed a prefix may name it."""
    path = request.rel_url.raw_path.rpartition("/")[0]
    prefix = request.headers.get(PREFIX_HEADER, "").rstrip("/")
    return f"{prefix}{path}" if PREFIX.fullmatch(prefix) else path


def protocol_version(parameters: Mapping[str, str]) -> ProtocolVersion:
    """Return the protocol version of a client: the one that it names, if the server has it."""
    match = re.fullmatch(r"(\d{1,3})\.(\d{1,3})", parameters.get("clientProtocol", ""), re.ASCII)
    version = (int(match[1]), int(match[2])) if match else MIN_PROTOCOL
    return min(max(version, MIN_PROTOCOL), MAX_PROTOCOL)


def _has_hub(connection_data: str) -> bool:
    """Return whether a client has the hub: clients list the hubs for which they have methods."""
    try:
        hubs = decode(connection_data, list[dict[str, Any]])
    except msgspec.DecodeError:
        return False
    return any(
        str(value).lower() == HUB.lower() for hub in hubs for name, value in hub.items() if name.lower() == "name"
    )
