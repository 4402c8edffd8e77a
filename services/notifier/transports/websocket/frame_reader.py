"""The frames of a client, parsed in small pieces. The parser exists only while there is something to parse."""

from __future__ import annotations

from typing import cast

from websockets.frames import CloseCode, Frame
from websockets.protocol import Protocol

from .protocol import IDLE_PROTOCOL, client_frame_size, open_protocol

MAX_PARSED_BYTES = 4 * 1024  # at once: a read of 256 KiB may contain 40,000 frames, far over the limit of messages


class FrameReader:
    """Parses what a client sends. `protocol` has the replies to the frames that were parsed.

    Args:
        max_bytes: how many bytes a message may have, in all its frames together.
    """

    __slots__ = ("_frames", "_incomplete_bytes", "_max_bytes", "_received", "protocol")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.protocol: Protocol = IDLE_PROTOCOL
        self._received = b""  # not parsed yet
        self._incomplete_bytes = 0  # parsed, of a frame that is not complete
        self._frames: list[Frame] = []  # parsed and not taken yet, the last one first

    def receive(self, data: bytes) -> None:
        """Add received bytes."""
        self._received += data

    @property
    def has_more(self) -> bool:
        """Whether there are frames, or bytes that are not parsed yet."""
        return bool(self._frames or self._received)

    @property
    def buffered_bytes(self) -> int:
        """How many bytes wait until their frame is complete, or are not parsed yet."""
        return len(self._received) + len(self.protocol.reader.buffer)

    def take(self) -> Frame | None:
        """Return the next parsed frame, or None."""
        return self._frames.pop() if self._frames else None

    def parse(self) -> bool:
        """Parse the next piece; return whether there was one."""
        if not self._received:
            return False
        if self.protocol is IDLE_PROTOCOL:
            self.protocol = open_protocol(self._max_bytes)
        part, self._received = self._received[:MAX_PARSED_BYTES], self._received[MAX_PARSED_BYTES:]
        self.protocol.receive_data(part)
        self._frames = cast(list[Frame], self.protocol.events_received())
        self._frames.reverse()
        self._incomplete_bytes += len(part) - sum(map(client_frame_size, self._frames))
        return True

    def fail(self, code: CloseCode) -> None:
        """Discard the frames, and ignore what follows (§7.1.7)."""
        self._frames, self._received = [], b""
        if self.protocol is not IDLE_PROTOCOL:
            self.protocol.fail(code)

    def free_if_idle(self) -> None:
        """Free the parser between two frames."""
        if not self._incomplete_bytes:
            self.free()

    def free(self) -> None:
        """Free the parser."""
        if self.protocol is not IDLE_PROTOCOL:
            self.protocol.parser.close()  # breaks a reference cycle, so that the protocol is freed immediately
            self.protocol = IDLE_PROTOCOL
