"""RFC 6455 as a server reads and writes it, section by section; the words in quotes are the RFC's."""

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

MOST = 70_000
MASK = b"\x12\xab\x00\xff"


def spelt(first: int, data: bytes = b"", *, mask: bytes = MASK, length: bytes | None = None) -> bytes:
    """Spell a frame of a client: the first byte, the length, the mask and the masked data."""
    if length is None:
        whole = encode_frame(Opcode.TEXT, data)
        length = whole[1 : len(whole) - len(data)]
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
    return bytes((first, length[0] | 0x80)) + length[1:] + mask + masked


def read(*chunks: bytes) -> list[Frame]:
    """Read what comes in chunks."""
    frames, found = FrameParser(MOST), []
    for chunk in chunks:
        frames.feed(chunk)
        while (one := frames.next_frame()) is not None:
            found.append(one)
    return found


def violated(*chunks: bytes) -> CloseCode:
    """Return the code that a violation is answered with."""
    with pytest.raises(ProtocolError) as raised:
        read(*chunks)
    return raised.value.code


# 5.1 and 5.3: masking


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_a_mask_is_taken_off(data: bytes, mask: bytes) -> None:
    """What was masked by any key comes out as it was."""
    assert read(spelt(0x82, data, mask=mask)) == [Frame(Opcode.BINARY, data)]


def test_an_unmasked_frame_is_refused() -> None:
    """`The server MUST close the connection upon receiving a frame that is not masked`."""
    assert violated(encode_frame(Opcode.TEXT, b"x")) == CloseCode.PROTOCOL_ERROR


def test_a_server_masks_nothing() -> None:
    """`A server MUST NOT mask any frames that it sends to the client`."""
    assert encode_frame(Opcode.TEXT, b"abc") == b"\x81\x03abc"


# 5.2: the head


@pytest.mark.parametrize("first", [0xC1, 0xA1, 0x91, 0xF1])
def test_reserved_bits_are_refused(first: int) -> None:
    """They mean something only where an extension was agreed on, and none ever is."""
    assert violated(spelt(first, b"x")) == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcodes_are_refused(opcode: int) -> None:
    """`If an unknown opcode is received, the receiving endpoint MUST Fail the WebSocket Connection`."""
    assert violated(spelt(0x80 | opcode)) == CloseCode.PROTOCOL_ERROR


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
def test_a_length_is_spelt_and_read(size: int, head: bytes) -> None:
    """The shortest of the three spellings is written, and each is read."""
    assert encode_frame(Opcode.TEXT, b"x" * size) == head + b"x" * size
    assert read(spelt(0x81, b"x" * size)) == [Frame(Opcode.TEXT, b"x" * size)]


@pytest.mark.parametrize(
    "length",
    [
        b"\x7e\x00\x7d",
        b"\x7f" + (65_535).to_bytes(8, "big"),
        b"\x7f\x80" + bytes(7),
    ],
)
def test_a_length_that_is_too_long_is_refused(length: bytes) -> None:
    """`The minimal number of bytes MUST be used`, and `the most significant bit MUST be 0`."""
    assert violated(spelt(0x81, length=length)) == CloseCode.PROTOCOL_ERROR


def test_what_is_too_big_is_refused_by_its_head() -> None:
    """Nobody waits for a gigabyte to come; the pieces of a message count together."""
    assert violated(spelt(0x81, length=b"\x7f" + (1 << 30).to_bytes(8, "big"))[:10]) == CloseCode.TOO_BIG
    assert violated(spelt(0x01, b"x" * MOST), spelt(0x80, b"x")) == CloseCode.TOO_BIG
    assert len(read(spelt(0x01, b"x" * (MOST - 1)), spelt(0x80, b"x"))[1].data) == MOST


# 5.4: fragments


def test_pieces_are_joined_around_what_comes_between_them() -> None:
    """`Control frames MAY be injected in the middle of a fragmented message`."""
    told = read(spelt(0x01, b"a"), spelt(0x89, b"ping"), spelt(0x00, b""), spelt(0x80, b"b"), spelt(0x81, b"c"))
    assert [one for one in told if one.opcode is not Opcode.CONTINUATION] == [
        Frame(Opcode.PING, b"ping"),
        Frame(Opcode.TEXT, b"ab"),
        Frame(Opcode.TEXT, b"c"),
    ]
    assert len(told) == 5  # each of them counts, so that nobody sends empty ones for ever


@pytest.mark.parametrize(
    "chunks",
    [
        [spelt(0x80, b"x")],
        [spelt(0x00, b"x")],
        [spelt(0x01, b"x"), spelt(0x81, b"y")],
        [spelt(0x02, b"x"), spelt(0x01, b"y")],
        [spelt(0x81, b"x"), spelt(0x80, b"y")],
    ],
)
def test_pieces_out_of_order_are_refused(chunks: list[bytes]) -> None:
    """`The fragments of one message MUST NOT be interleaved`, and what goes on must have begun."""
    assert violated(*chunks) == CloseCode.PROTOCOL_ERROR


# 5.5: control frames


@pytest.mark.parametrize("opcode", [Opcode.CLOSE, Opcode.PING, Opcode.PONG])
def test_control_frames_are_short_and_whole(opcode: Opcode) -> None:
    """`MUST have a payload length of 125 bytes or less and MUST NOT be fragmented`."""
    assert read(spelt(0x80 | opcode, b"x" * 125)) == [Frame(opcode, b"x" * 125)]
    assert violated(spelt(opcode, b"x")) == CloseCode.PROTOCOL_ERROR
    assert violated(spelt(0x80 | opcode, b"x" * 126)) == CloseCode.PROTOCOL_ERROR


# 7.1.5 and 7.4: closing


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_close_code_is_read(code: int) -> None:
    """Those that are defined, registered or private."""
    (told,) = read(spelt(0x88, code.to_bytes(2, "big") + "Grund: müde".encode()))
    assert parse_close_code(told.data) == code


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535])
def test_a_close_code_that_may_not_be_sent_is_refused(code: int) -> None:
    """1005, 1006 and 1015 are `reserved values`, and the others are nobody's."""
    with pytest.raises(ProtocolError) as raised:
        parse_close_code(code.to_bytes(2, "big"))
    assert raised.value.code == CloseCode.PROTOCOL_ERROR


def test_a_close_without_a_code_and_half_a_code() -> None:
    """An empty body has no code; one byte is none."""
    assert parse_close_code(b"") == CloseCode.NO_STATUS
    assert encode_close(CloseCode.NO_STATUS) == b"\x88\x00"
    with pytest.raises(ProtocolError):
        parse_close_code(b"\x03")


def test_a_close_is_spelt() -> None:
    """`The first two bytes of the body MUST be a 2-byte unsigned integer`; its reason is text."""
    assert encode_close(CloseCode.RESTART, "restarting") == b"\x88\x0c\x03\xf4restarting"


# 8.1: text


@pytest.mark.parametrize("data", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf"])
def test_text_that_is_none_is_refused(data: bytes) -> None:
    """Cut short, surrogates, beyond Unicode, overlong; in a reason, too."""
    for attempt in (lambda: decode_text(data), lambda: parse_close_code(b"\x03\xe8" + data)):
        with pytest.raises(ProtocolError) as raised:
            attempt()
        assert raised.value.code == CloseCode.INVALID_TEXT


@given(st.text(max_size=200))
def test_text_is_read(text: str) -> None:
    """Whatever Unicode has."""
    (told,) = read(spelt(0x81, text.encode()))
    assert decode_text(told.data) == text


# However it comes


def cut(data: bytes, seed: int) -> Iterable[bytes]:
    """Cut bytes into random chunks."""
    dice, start = random.Random(seed), 0
    while start < len(data):
        end = start + dice.choice([1, 2, 3, 10, 1000])
        yield data[start:end]
        start = end


@given(st.lists(st.binary(max_size=400), max_size=8), st.integers())
def test_chunks_make_no_difference(messages: list[bytes], seed: int) -> None:
    """The network cuts as it likes: byte by byte or all at once, the same frames are read, and nothing is left."""
    data = b"".join(spelt(0x82, message) for message in messages)
    frames = FrameParser(MOST)
    found = []
    for chunk in cut(data, seed):
        frames.feed(chunk)
        while (one := frames.next_frame()) is not None:
            found.append(one.data)
    assert found == messages
    assert not frames.has_data
