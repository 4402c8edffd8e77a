"""The hub protocols of ASP.NET Core SignalR."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.contracts import MAX_NESTING_DEPTH
from services.notifier.transports.signalr.aspnet_core.protocols import (
    JSON,
    MAX_MESSAGE_BYTES,
    MAX_SPLIT,
    MESSAGE_PACK,
    ClientMessage,
    HubProtocol,
    MessageTooLarge,
    ProtocolViolation,
)

PROTOCOLS = [JSON, MESSAGE_PACK]
INVOCATION = {"type": 1, "invocationId": "7", "target": "Watch", "arguments": ["token", None], "headers": {"a": "b"}}


def encode(protocol: HubProtocol, message: dict[str, Any]) -> bytes:
    """Return a client's invocation as the client sends it."""
    if protocol is JSON:
        return json.dumps(message).encode() + b"\x1e"
    body = msgspec.msgpack.encode([1, {}, message["invocationId"], message["target"], message["arguments"], []])
    return bytes([len(body)]) + body


def read(protocol: HubProtocol, data: bytes) -> Any:
    """Return the only message that the server has sent, decoded."""
    (message,), rest = protocol.split(data)
    assert rest == b""
    return json.loads(message) if protocol is JSON else msgspec.msgpack.decode(message)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_messages_may_arrive_in_any_pieces(protocol: HubProtocol) -> None:
    """Messages begin and end anywhere in what a client sends."""
    data, received, messages = encode(protocol, INVOCATION) * 3, b"", []
    for byte in data:
        complete, received = protocol.split(received + bytes([byte]))
        messages += [protocol.decode(message) for message in complete]
    assert received == b""
    assert [(each.target, each.invocation_id, each.arguments) for each in messages] == [
        ("Watch", "7", ("token", None))
    ] * 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_messages_are_split_in_groups(protocol: HubProtocol) -> None:
    """A large batch does not block the event loop, and a message in it may be as large as any other."""
    call = encode(protocol, INVOCATION)
    rest, counts = call * (2 * MAX_SPLIT + 1), []
    while rest:
        messages, rest = protocol.split(rest)
        counts.append(len(messages))
    assert counts == [MAX_SPLIT, MAX_SPLIT, 1]
    large = b"x" * (MAX_MESSAGE_BYTES + 1) + b"\x1e" if protocol is JSON else b"\xff\xff\x7f"
    _, rest = protocol.split(call * MAX_SPLIT + large)
    with pytest.raises(MessageTooLarge):
        protocol.split(rest)


@given(data=st.binary(max_size=200))
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_bytes_are_a_violation(protocol: HubProtocol, data: bytes) -> None:
    """Whatever a client sends is a message or a violation of the protocol, and no other error."""
    try:
        messages, _ = protocol.split(data)
        assert all(isinstance(protocol.decode(message), ClientMessage) for message in messages)
    except ProtocolViolation:
        return


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_messages_are_refused_before_they_are_complete(protocol: HubProtocol) -> None:
    """A client cannot fill the server's memory."""
    start = b"x" * (MAX_MESSAGE_BYTES + 1) if protocol is JSON else b"\xff\xff\xff\x7f"
    with pytest.raises(ProtocolViolation, match="too large"):
        protocol.split(start)


def test_a_length_has_at_most_five_bytes() -> None:
    """A length that does not end is a violation."""
    with pytest.raises(ProtocolViolation, match="length"):
        MESSAGE_PACK.split(b"\xff" * 5)


def test_messages_of_the_server() -> None:
    """They are as the specification says, in both protocols."""
    item, packed_item = b'{"percent":1}', MESSAGE_PACK.encode_value(b'{"percent":1}')
    assert JSON.encode_value(item) == item
    assert read(JSON, JSON.invocation("a", item)) == {"type": 1, "target": "a", "arguments": [{"percent": 1}]}
    assert read(MESSAGE_PACK, MESSAGE_PACK.invocation("a", packed_item)) == [1, {}, None, "a", [{"percent": 1}], []]
    assert read(JSON, JSON.stream_item("7", item)) == {"type": 2, "invocationId": "7", "item": {"percent": 1}}
    assert read(MESSAGE_PACK, MESSAGE_PACK.stream_item("7", packed_item)) == [2, {}, "7", {"percent": 1}]
    assert read(JSON, JSON.completion("7")) == {"type": 3, "invocationId": "7"}
    assert read(JSON, JSON.completion("7", "no")) == {"type": 3, "invocationId": "7", "error": "no"}
    assert read(MESSAGE_PACK, MESSAGE_PACK.completion("7")) == [3, {}, "7", 2]
    assert read(MESSAGE_PACK, MESSAGE_PACK.completion("7", "no")) == [3, {}, "7", 1, "no"]
    assert read(JSON, JSON.close(allow_reconnect=True)) == {"type": 7, "allowReconnect": True}
    assert read(MESSAGE_PACK, MESSAGE_PACK.close("no")) == [7, "no", False]
    assert read(JSON, JSON.ping) == {"type": 6}
    assert read(MESSAGE_PACK, MESSAGE_PACK.ping) == [6]


def packed(text: bytes) -> Any:
    """Return what a client reads in MessagePack for a JSON text."""
    return read(MESSAGE_PACK, MESSAGE_PACK.stream_item("7", MESSAGE_PACK.encode_value(text)))[3]


@pytest.mark.parametrize("digits", [str(2**64), str(-(2**63) - 1), "9" * 400, "-" + "9" * 30_000])
def test_numbers_that_messagepack_lacks_are_floats(digits: str) -> None:
    """A result may have larger numbers than MessagePack has; a browser would read them as floats, too."""
    assert packed(b'{"n": [%b, 9223372036854775808, -4611686018427387905]}' % digits.encode()) == {
        "n": [float(digits), 2**63, -(2**62) - 1]
    }


def test_text_that_utf8_lacks_has_question_marks() -> None:
    """JSON may have one half of a surrogate pair, in a key, too; other texts are unchanged."""
    assert packed(rb'{"\ud800a": "\udc00", "b": "\ud83d\ude00"}') == {"?a": "?", "b": "\U0001f600"}


def test_long_messages_have_longer_lengths() -> None:
    """A length has seven bits in each byte."""
    assert packed(json.dumps("x" * 40_000).encode()) == "x" * 40_000


def test_every_json_text_can_be_packed() -> None:
    """A result may be nested as deep as a report permits, with numbers that no float has."""
    value = packed(b"[" * MAX_NESTING_DEPTH + b"1e999," + b"1" * 30 + b"]" * MAX_NESTING_DEPTH)
    for _ in range(MAX_NESTING_DEPTH - 1):
        (value,) = value
    assert value == [float("inf"), float("1" * 30)]
