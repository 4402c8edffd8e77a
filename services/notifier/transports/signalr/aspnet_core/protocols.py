"""The two hub protocols, JSON and MessagePack: how messages to and from clients are encoded.

https://github.com/dotnet/aspnetcore/blob/main/src/SignalR/docs/specs/HubProtocol.md
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta, Struct

RECORD_SEPARATOR = b"\x1e"
MAX_MESSAGE_BYTES = 64 * 1024  # of a client's message
INVOCATION, STREAM_ITEM, COMPLETION, STREAM_INVOCATION, CANCEL_INVOCATION, PING, CLOSE = range(1, 8)
COMPLETED_WITH_ERROR, COMPLETED = 1, 2
MAX_VAR_INT_BYTES = 5
MAX_ID_LENGTH = 64  # of an invocation; clients count
MIN_INT, MAX_INT = -(2**63), 2**64 - 1  # of MessagePack


class ProtocolViolation(ValueError):
    """A client has sent what the protocol does not allow."""


class ClientMessage(Struct, frozen=True, rename="camel"):
    """A message of a client. Fields that its type does not have are ignored.

    Attributes:
        type: the number of its type, such as INVOCATION.
        invocation_id: the id with which the client expects the answer; None if it expects none.
        target: the method of the hub.
        arguments: the arguments of the method.
    """

    type: int
    invocation_id: Annotated[str, Meta(max_length=MAX_ID_LENGTH)] | None = None
    target: str = ""
    arguments: tuple[Any, ...] = ()


class HubProtocol(ABC):
    """A hub protocol. Arguments and items are given in JSON."""

    name: ClassVar[str]
    ping: ClassVar[bytes]

    @abstractmethod
    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Return the complete messages at the beginning of the received bytes, and what remains.

        Raises:
            ProtocolViolation: a message is too large, or its length is not valid.
        """

    @abstractmethod
    def decode(self, message: bytes) -> ClientMessage:
        """Return a client's message.

        Raises:
            ProtocolViolation: it is not valid.
        """

    @abstractmethod
    def invocation(self, target: str, argument: bytes) -> bytes:
        """Return the call of a client's method, which has one argument and returns nothing."""

    @abstractmethod
    def stream_item(self, invocation_id: str, item: bytes) -> bytes:
        """Return an item of a stream."""

    @abstractmethod
    def completion(self, invocation_id: str, error: str | None = None) -> bytes:
        """Return the answer to an invocation, which has no result, or the end of a stream."""

    @abstractmethod
    def close(self, error: str | None = None, *, allow_reconnect: bool = False) -> bytes:
        """Return the message after which the server closes the connection."""


class JsonHubProtocol(HubProtocol):
    """Messages are JSON texts, each of which ends with a record separator."""

    name, ping = "json", b'{"type":6}\x1e'
    _decode = msgspec.json.Decoder(ClientMessage).decode

    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Return the complete messages and what remains."""
        *messages, rest = data.split(RECORD_SEPARATOR)
        if max(map(len, [*messages, rest])) > MAX_MESSAGE_BYTES:
            raise ProtocolViolation("The message is too large.")
        return messages, rest

    def decode(self, message: bytes) -> ClientMessage:
        """Return a client's message."""
        try:
            return self._decode(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolViolation("The message is not valid.") from error

    def invocation(self, target: str, argument: bytes) -> bytes:
        """Return the call of a client's method."""
        return b'{"type":1,"target":"%b","arguments":[%b]}\x1e' % (target.encode(), argument)

    def stream_item(self, invocation_id: str, item: bytes) -> bytes:
        """Return an item of a stream."""
        return b'{"type":2,"invocationId":%b,"item":%b}\x1e' % (msgspec.json.encode(invocation_id), item)

    def completion(self, invocation_id: str, error: str | None = None) -> bytes:
        """Return the answer to an invocation, or the end of a stream."""
        fields: dict[str, Any] = {"type": COMPLETION, "invocationId": invocation_id}
        return _record(fields if error is None else fields | {"error": error})

    def close(self, error: str | None = None, *, allow_reconnect: bool = False) -> bytes:
        """Return the last message."""
        fields: dict[str, Any] = {"type": CLOSE}
        fields |= {} if error is None else {"error": error}
        return _record(fields | ({"allowReconnect": True} if allow_reconnect else {}))


class MessagePackHubProtocol(HubProtocol):
    """Messages are arrays in MessagePack, each of which follows its length."""

    name, ping = "messagepack", b"\x02\x91\x06"

    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Return the complete messages and what remains."""
        messages, position = [], 0
        while (head := _read_length(data, position)) is not None:
            start, length = head
            if length > MAX_MESSAGE_BYTES:
                raise ProtocolViolation("The message is too large.")
            if start + length > len(data):
                break
            messages.append(data[start : start + length])
            position = start + length
        return messages, data[position:]

    def decode(self, message: bytes) -> ClientMessage:
        """Return a client's message."""
        try:
            fields = msgspec.msgpack.decode(message, type=list)
            match fields:
                case [(1 | 4) as kind, _headers, invocation_id, target, arguments, *_]:
                    values = {"type": kind, "invocationId": invocation_id, "target": target, "arguments": arguments}
                case [(2 | 3 | 5) as kind, _headers, invocation_id, *_]:
                    values = {"type": kind, "invocationId": invocation_id}
                case [kind, *_]:
                    values = {"type": kind}
                case _:
                    raise ProtocolViolation("The message is not valid.")
            return msgspec.convert(values, ClientMessage)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolViolation("The message is not valid.") from error

    def invocation(self, target: str, argument: bytes) -> bytes:
        """Return the call of a client's method."""
        return _packed([INVOCATION, {}, None, target, [_from_json(argument)], []])

    def stream_item(self, invocation_id: str, item: bytes) -> bytes:
        """Return an item of a stream."""
        return _packed([STREAM_ITEM, {}, invocation_id, _from_json(item)])

    def completion(self, invocation_id: str, error: str | None = None) -> bytes:
        """Return the answer to an invocation, or the end of a stream."""
        outcome = [COMPLETED] if error is None else [COMPLETED_WITH_ERROR, error]
        return _packed([COMPLETION, {}, invocation_id, *outcome])

    def close(self, error: str | None = None, *, allow_reconnect: bool = False) -> bytes:
        """Return the last message."""
        return _packed([CLOSE, error, allow_reconnect])


JSON, MESSAGE_PACK = JsonHubProtocol(), MessagePackHubProtocol()
PROTOCOLS: dict[str, HubProtocol] = {protocol.name: protocol for protocol in (JSON, MESSAGE_PACK)}


def _record(fields: dict[str, Any]) -> bytes:
    return msgspec.json.encode(fields) + RECORD_SEPARATOR


def _packed(message: list[Any]) -> bytes:
    try:
        body = msgspec.msgpack.encode(message)
    except OverflowError:
        _replace_large_numbers(message)
        body = msgspec.msgpack.encode(message)
    return _encode_length(len(body)) + body


def _encode_length(length: int) -> bytes:
    """Return a length with seven bits in each byte, the lowest first."""
    encoded = bytearray()
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


def _read_length(data: bytes, position: int) -> tuple[int, int] | None:
    """Return where a message begins and how long it is, or None if its length is not complete."""
    length = 0
    for index, byte in enumerate(data[position : position + MAX_VAR_INT_BYTES]):
        length |= (byte & 0x7F) << (7 * index)
        if byte <= 0x7F:
            return position + index + 1, length
    if len(data) - position >= MAX_VAR_INT_BYTES:
        raise ProtocolViolation("The length of the message is not valid.")
    return None


def _from_json(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return json.loads(text)  # a number beyond the range of a float is infinite, as in a browser


def _replace_large_numbers(message: list[Any]) -> None:
    """Replace the integers that MessagePack does not have with floats. Values may be nested deep: no recursion."""
    containers: list[Any] = [message]
    while containers:
        container = containers.pop()
        for place, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
            if isinstance(value, dict | list):
                containers.append(value)
            elif isinstance(value, int) and not MIN_INT <= value <= MAX_INT:
                container[place] = float(str(value))  # infinite beyond the range of a float, as in a browser
