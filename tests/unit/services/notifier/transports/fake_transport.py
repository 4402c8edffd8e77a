"""A connection to a client whose bytes are recorded."""

from __future__ import annotations

from typing import cast

from websockets.frames import Frame
from websockets.protocol import Protocol, Side


class FakeTransport:
    """Records what the server writes, and how it closes. `buffered` bytes wait until the client reads."""

    def __init__(self) -> None:
        self.written = b""
        self.buffered = 0
        self.half_closed = False
        self.aborted = False
        self.reading = True
        self.high = 0

    def set_write_buffer_limits(self, high: int) -> None:
        """Record the limit."""
        self.high = high

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait."""
        return self.buffered

    def write(self, data: bytes) -> None:
        """Record data."""
        assert not self.half_closed
        self.written += data

    def write_eof(self) -> None:
        """Record that nothing follows."""
        self.half_closed = True

    def is_closing(self) -> bool:
        """Return whether the server has aborted the connection, or a test has closed it."""
        return self.aborted

    def abort(self) -> None:
        """Close the connection."""
        self.aborted = True

    def pause_reading(self) -> None:
        """Record that nothing is read."""
        self.reading = False

    def resume_reading(self) -> None:
        """Record that the server reads."""
        self.reading = True

    def frames(self) -> list[Frame]:
        """Return the frames of a WebSocket that were written since the last call."""
        client = Protocol(Side.CLIENT)
        client.receive_data(self.written)
        self.written = b""
        return cast(list[Frame], client.events_received())
