"""RFC 6455 as a server parses and encodes it, section by section; the RFC is quoted in backquotes."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.notifier.transports.websocket.frames import (
    CloseCode,
    Frame,
    FrameParser,
    Opcode,
    ProtocolError,
    decode_text,
    encode_close,
    encode_frame,
    parse_close_code,
)

MAX_SIZE = 70_000
MASK = b"\x12\xab\x00\xff"


def client_frame(first: int, data: bytes = b"", *, mask: bytes = MASK, length: bytes | None = None) -> bytes:
    """Encode a frame of a client: the first byte, the length, the mask and the masked data."""
    if length is None:
        unmasked_frame = encode_frame(Opcode.TEXT, data)
        length = unmasked_frame[1 : len(unmasked_frame) - len(data)]
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
    return bytes((first, length[0] | 0x80)) + length[1:] + mask + masked


def parse(*chunks: bytes) -> list[Frame]:
    """Return the frames in these chunks."""
    parser, parsed = FrameParser(MAX_SIZE), []
    for chunk in chunks:
        parser.feed(chunk)
        while (frame := parser.next_frame()) is not None:
            parsed.append(frame)
    return parsed


def error_code(*chunks: bytes) -> CloseCode:
    """Return the close code of the ProtocolError that these chunks cause."""
    with pytest.raises(ProtocolError) as raised:
        parse(*chunks)
    return raised.value.code


# 5.1 and 5.3: masking


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_data_is_unmasked(data: bytes, mask: bytes) -> None:
    """Data that was masked with any key is restored."""
    assert parse(client_frame(0x82, data, mask=mask)) == [Frame(Opcode.BINARY, data)]


def test_an_unmasked_frame_is_rejected() -> None:
    """`The server MUST close the connection upon receiving a frame that is not masked`."""
    assert error_code(encode_frame(Opcode.TEXT, b"x")) == CloseCode.PROTOCOL_ERROR


def test_a_server_does_not_mask() -> None:
    """`A server MUST NOT mask any frames that it sends to the client`."""
    assert encode_frame(Opcode.TEXT, b"abc") == b"\x81\x03abc"


# 5.2: the head of a frame


@pytest.mark.parametrize("first", [0xC1, 0xA1, 0x91, 0xF1])
def test_reserved_bits_are_rejected(first: int) -> None:
    """Reserved bits need an extension, and this server negotiates none."""
    assert error_code(client_frame(first, b"x")) == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcodes_are_rejected(opcode: int) -> None:
    """`If an unknown opcode is received, the receiving endpoint MUST Fail the WebSocket Connection`."""
    assert error_code(client_frame(0x80 | opcode)) == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_length_is_encoded_and_parsed(size: int, head: bytes) -> None:
    """The shortest of the three encodings is written, and each of them is parsed."""
    assert encode_frame(Opcode.TEXT, b"x" * size) == head + b"x" * size
    assert parse(client_frame(0x81, b"x" * size)) == [Frame(Opcode.TEXT, b"x" * size)]


@pytest.mark.parametrize(
    "length",
    [
        b"\x7e\x00\x7d",
        b"\x7f" + (65_535).to_bytes(8, "big"),
        b"\x7f\x80" + bytes(7),
    ],
)
def test_an_invalid_length_is_rejected(length: bytes) -> None:
    """`The minimal number of bytes MUST be used`, and `the most significant bit MUST be 0`."""
    assert error_code(client_frame(0x81, length=length)) == CloseCode.PROTOCOL_ERROR


def test_a_message_that_is_too_big_is_rejected_by_its_head() -> None:
    """The data of a frame that is too big is not awaited; the fragments of a message count together."""
    assert error_code(client_frame(0x81, length=b"\x7f" + (1 << 30).to_bytes(8, "big"))[:10]) == CloseCode.TOO_BIG
    assert error_code(client_frame(0x01, b"x" * MAX_SIZE), client_frame(0x80, b"x")) == CloseCode.TOO_BIG
    assert len(parse(client_frame(0x01, b"x" * (MAX_SIZE - 1)), client_frame(0x80, b"x"))[1].data) == MAX_SIZE


# 5.4: fragments


def test_fragments_are_joined_around_control_frames() -> None:
    """`Control frames MAY be injected in the middle of a fragmented message`."""
    parsed_frames = parse(
        client_frame(0x01, b"a"),
        client_frame(0x89, b"ping"),
        client_frame(0x00, b""),
        client_frame(0x80, b"b"),
        client_frame(0x81, b"c"),
    )
    assert [frame for frame in parsed_frames if frame.opcode is not Opcode.CONTINUATION] == [
        Frame(Opcode.PING, b"ping"),
        Frame(Opcode.TEXT, b"ab"),
        Frame(Opcode.TEXT, b"c"),
    ]
    assert len(parsed_frames) == 5  # fragments are returned, so that the caller can limit empty ones


@pytest.mark.parametrize(
    "chunks",
    [
        [client_frame(0x80, b"x")],
        [client_frame(0x00, b"x")],
        [client_frame(0x01, b"x"), client_frame(0x81, b"y")],
        [client_frame(0x02, b"x"), client_frame(0x01, b"y")],
        [client_frame(0x81, b"x"), client_frame(0x80, b"y")],
    ],
)
def test_fragments_out_of_order_are_rejected(chunks: list[bytes]) -> None:
    """`The fragments of one message MUST NOT be interleaved`, and a continuation needs a first fragment."""
    assert error_code(*chunks) == CloseCode.PROTOCOL_ERROR


# 5.5: control frames


@pytest.mark.parametrize("opcode", [Opcode.CLOSE, Opcode.PING, Opcode.PONG])
def test_control_frames_are_short_and_unfragmented(opcode: Opcode) -> None:
    """They `MUST have a payload length of 125 bytes or less and MUST NOT be fragmented`."""
    assert parse(client_frame(0x80 | opcode, b"x" * 125)) == [Frame(opcode, b"x" * 125)]
    assert error_code(client_frame(opcode, b"x")) == CloseCode.PROTOCOL_ERROR
    assert error_code(client_frame(0x80 | opcode, b"x" * 126)) == CloseCode.PROTOCOL_ERROR


# 7.1.5 and 7.4: closing


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_close_code_is_parsed(code: int) -> None:
    """Codes that are defined, registered or private are valid."""
    (frame,) = parse(client_frame(0x88, code.to_bytes(2, "big") + "reason: naïve".encode()))
    assert parse_close_code(frame.data) == code


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535])
def test_an_invalid_close_code_is_rejected(code: int) -> None:
    """1005, 1006 and 1015 are `reserved values`, and the others are undefined."""
    with pytest.raises(ProtocolError) as raised:
        parse_close_code(code.to_bytes(2, "big"))
    assert raised.value.code == CloseCode.PROTOCOL_ERROR


def test_a_close_frame_may_have_no_code() -> None:
    """An empty body has no code; a body of one byte is invalid."""
    assert parse_close_code(b"") == CloseCode.NO_STATUS
    assert encode_close(CloseCode.NO_STATUS) == b"\x88\x00"
    with pytest.raises(ProtocolError):
        parse_close_code(b"\x03")


def test_a_close_frame_is_encoded() -> None:
    """`The first two bytes of the body MUST be a 2-byte unsigned integer`; the reason is text."""
    assert encode_close(CloseCode.RESTART, "restarting") == b"\x88\x0c\x03\xf4restarting"


# 8.1: text


@pytest.mark.parametrize("data", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf"])
def test_invalid_utf_8_is_rejected(data: bytes) -> None:
    """Truncated and overlong sequences, surrogates and too large code points are rejected, also in a reason."""
    for decode in (lambda: decode_text(data), lambda: parse_close_code(b"\x03\xe8" + data)):
        with pytest.raises(ProtocolError) as raised:
            decode()
        assert raised.value.code == CloseCode.INVALID_TEXT


@given(st.text(max_size=200))
def test_text_is_decoded(text: str) -> None:
    """All of Unicode can be sent."""
    (frame,) = parse(client_frame(0x81, text.encode()))
    assert decode_text(frame.data) == text


# Incremental parsing


def split(data: bytes, seed: int) -> Iterable[bytes]:
    """Split bytes into random chunks."""
    rng, start = random.Random(seed), 0
    while start < len(data):
        end = start + rng.choice([1, 2, 3, 10, 1000])
        yield data[start:end]
        start = end


@given(st.lists(st.binary(max_size=400), max_size=8), st.integers())
def test_the_size_of_chunks_does_not_matter(messages: list[bytes], seed: int) -> None:
    """The same frames are parsed from chunks of any size, and no bytes are left."""
    data = b"".join(client_frame(0x82, message) for message in messages)
    parser = FrameParser(MAX_SIZE)
    parsed = []
    for chunk in split(data, seed):
        parser.feed(chunk)
        while (frame := parser.next_frame()) is not None:
            parsed.append(frame.data)
    assert parsed == messages
    assert not parser.has_data
