"""The two hub protocols, JSON and MessagePack: how messages to and from clients are encoded.

https://github.com/dotnet/aspnetcore/blob/main/src/SignalR/docs/specs/HubProtocol.md
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct

from ....watching.snapshot import PublishedSnapshot

RECORD_SEPARATOR = b"\x1e"
MAX_MESSAGE_BYTES = 64 * 1024  # of a client's message
MAX_BATCH_BYTES = 1024 * 1024  # of a frame or a body: clients send many calls at once, most of them with a token
MAX_SPLIT = 100  # messages at once: a batch may have half a million, far over the limit of messages
INVOCATION, STREAM_ITEM, COMPLETION, STREAM_INVOCATION, CANCEL_INVOCATION, PING, CLOSE = range(1, 8)
COMPLETED_WITH_ERROR, COMPLETED = 1, 2
MAX_VAR_INT_BYTES = 5
MAX_ID_LENGTH = 64  # of an invocation; clients count
MIN_INT, MAX_INT = -(2.0**63), 2.0**64  # of MessagePack
ProtocolName = Literal["json", "messagepack"]


class ProtocolViolation(ValueError):
    """A client has sent what the protocol does not allow."""


class MessageTooLarge(ProtocolViolation):
    """A client has sent a message of more than MAX_MESSAGE_BYTES."""


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
    """A hub protocol. Arguments and items are values that `encode_value` has returned, so that each is encoded once."""

    name: ClassVar[ProtocolName]
    ping: ClassVar[bytes]

    @abstractmethod
    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Return the complete messages at the beginning of the received bytes, up to MAX_SPLIT, and what remains.

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
    def encode_value(self, text: bytes) -> bytes:
        """Return a JSON text as a value in messages."""

    def encode_snapshot(self, snapshot: PublishedSnapshot) -> bytes:
        """Return a snapshot as a value in messages: an encoder of snapshots."""
        return self.encode_value(snapshot.text)

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
        *messages, rest = data.split(RECORD_SEPARATOR, MAX_SPLIT)
        is_complete = RECORD_SEPARATOR in rest  # the size of what follows is checked when it is split
        if max(map(len, messages if is_complete else [*messages, rest])) > MAX_MESSAGE_BYTES:
            raise MessageTooLarge("The message is too large.")
        return messages, rest

    def decode(self, message: bytes) -> ClientMessage:
        """Return a client's message."""
        try:
            return self._decode(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolViolation("The message is not valid.") from error

    def encode_value(self, text: bytes) -> bytes:
        """Return a JSON text unchanged."""
        return text

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
        messages: list[bytes] = []
        position = 0
        while len(messages) < MAX_SPLIT and (head := _read_length(data, position)) is not None:
            start, length = head
            if length > MAX_MESSAGE_BYTES:
                raise MessageTooLarge("The message is too large.")
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

    def encode_value(self, text: bytes) -> bytes:
        """Return a JSON text in MessagePack."""
        try:
            return _pack(msgspec.json.decode(text))
        except (msgspec.DecodeError, OverflowError):
            return _pack(_packable(text))

    def invocation(self, target: str, argument: bytes) -> bytes:
        """Return the call of a client's method: `[1, {}, nil, target, [argument], []]`."""
        return _with_length(b"\x96\x01\x80\xc0%b\x91%b\x90" % (_pack(target), argument))

    def stream_item(self, invocation_id: str, item: bytes) -> bytes:
        """Return an item of a stream: `[2, {}, id, item]`."""
        return _with_length(b"\x94\x02\x80%b%b" % (_pack(invocation_id), item))

    def completion(self, invocation_id: str, error: str | None = None) -> bytes:
        """Return the answer to an invocation, or the end of a stream."""
        outcome = [COMPLETED] if error is None else [COMPLETED_WITH_ERROR, error]
        return _with_length(_pack([COMPLETION, {}, invocation_id, *outcome]))

    def close(self, error: str | None = None, *, allow_reconnect: bool = False) -> bytes:
        """Return the last message."""
        return _with_length(_pack([CLOSE, error, allow_reconnect]))


_pack = msgspec.msgpack.Encoder().encode
JSON, MESSAGE_PACK = JsonHubProtocol(), MessagePackHubProtocol()
PROTOCOLS: dict[str, HubProtocol] = {protocol.name: protocol for protocol in (JSON, MESSAGE_PACK)}


def _record(fields: dict[str, Any]) -> bytes:
    return msgspec.json.encode(fields) + RECORD_SEPARATOR


def _with_length(message: bytes) -> bytes:
    return _encode_length(len(message)) + message


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


def _packable(text: bytes) -> Any:
    """Return the value of a JSON text that has what MessagePack has not.

    A number beyond its range becomes a float, maybe infinite, as in a browser; a lone surrogate, a question mark.
    """
    value = json.loads(text, parse_int=_parse_int)
    return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


def _parse_int(digits: str) -> int | float:
    number = float(digits)
    return int(digits) if MIN_INT < number < MAX_INT else number
