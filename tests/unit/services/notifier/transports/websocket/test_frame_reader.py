"""The parser of a client's frames: small pieces, and no parser while there is nothing to parse."""

from __future__ import annotations

from websockets.frames import CloseCode, Opcode

from services.notifier.transports.websocket.frame_reader import MAX_PARSED_BYTES, FrameReader
from services.notifier.transports.websocket.protocol import IDLE_PROTOCOL, MAX_MESSAGE_BYTES
from tests.unit.services.notifier.transports.websocket.test_connection import client_frame, text


def read(reader: FrameReader) -> list[bytes]:
    """Parse all that was received, and return the data of the frames."""
    frames = []
    while True:
        while (frame := reader.take()) is not None:
            frames.append(bytes(frame.data))
        if not reader.parse():
            return frames


def test_a_read_is_parsed_in_pieces() -> None:
    """Only the frames of one piece exist at a time, and their order is kept."""
    ping = client_frame(Opcode.PING)
    count = 3 * MAX_PARSED_BYTES // len(ping)
    reader = FrameReader(MAX_MESSAGE_BYTES)
    reader.receive(count * ping)
    assert reader.parse()
    first = 0
    while reader.take() is not None:
        first += 1
    assert first == MAX_PARSED_BYTES // len(ping)
    assert reader.has_more
    assert first + len(read(reader)) == count
    assert not reader.has_more


def test_the_parser_is_kept_within_a_frame() -> None:
    """Between two frames it is freed, and the next one gets a new parser."""
    reader, frame = FrameReader(MAX_MESSAGE_BYTES), text("hello")
    for end in range(1, len(frame)):
        reader.receive(frame[:end])
        assert read(reader) == []
        reader.free_if_idle()
        assert reader.protocol is not IDLE_PROTOCOL
        reader.receive(frame[end:])
        assert read(reader) == [b"hello"]
        reader.free_if_idle()
        assert reader.protocol is IDLE_PROTOCOL


def test_after_a_failure_nothing_is_read() -> None:
    """Frames that wait are discarded, and later ones are ignored (§7.1.7)."""
    reader = FrameReader(MAX_MESSAGE_BYTES)
    reader.receive(text("a") + text("b"))
    reader.parse()
    reader.fail(CloseCode.POLICY_VIOLATION)
    reader.receive(text("c"))
    assert read(reader) == []
    assert reader.protocol.close_sent is not None
