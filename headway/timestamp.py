"""Timestamps, RFC 3339 in UTC with milliseconds on the wire and milliseconds since the epoch in code; remote clocks."""

from __future__ import annotations

import time
from collections import deque
from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_READINGS = 10  # of another machine's clock: an older one may be wrong, because that clock was set back
MIN_MS, MAX_MS = -62_135_596_800_000, 253_402_300_799_999  # the years 1 to 9999, the range of RFC 3339


class Timestamp(int):
    """A point in time, in milliseconds since the epoch."""

    __slots__ = ()

    @classmethod
    def now(cls) -> Timestamp:
        """Return the current time of this machine's clock."""
        return cls(time.time_ns() // 1_000_000)

    @classmethod
    def parse(cls, text: object) -> Timestamp:
        """Parse an RFC 3339 time.

        Raises:
            ValueError: the text is not an RFC 3339 time with an offset, or its year is not 1 to 9999 in UTC.
        """
        if not isinstance(text, str):
            raise ValueError("Expected an RFC 3339 time")  # noqa: TRY004 - msgspec adds the path to a ValueError
        return _parse_rfc3339(text)

    @classmethod
    def at(cls, seconds: float) -> Timestamp:
        """Return the time that is `seconds` after the epoch.

        Raises:
            ValueError: the year is not 1 to 9999 in UTC.
        """
        milliseconds = round(seconds * 1000)
        if not MIN_MS <= milliseconds <= MAX_MS:
            raise ValueError("Expected a time in the years 1 to 9999 in UTC")
        return cls(milliseconds)

    def after(self, seconds: float) -> Timestamp:
        """Return the time `seconds` later, or the end of the year 9999 if that is earlier."""
        return Timestamp(min(MAX_MS, self + round(seconds * 1000)))

    def __str__(self) -> str:
        """Return the time as RFC 3339 in UTC with milliseconds."""
        return self.to_json()[1:-1].decode()

    def to_json(self) -> bytes:
        """Return the time as a JSON string, with its quotes."""
        return _format_rfc3339(int(self))


class RemoteClock:
    """The clock of another machine, as of its last reading; until the first one, the clock of this machine."""

    def __init__(self) -> None:
        self._reading: tuple[Timestamp, float] | None = None
        self._received: deque[tuple[Timestamp, float]] = deque(maxlen=MAX_READINGS)
        self._confirmed: Timestamp | None = None

    def set(self, reading: Timestamp, read_at: float) -> None:
        """Set the time that the clock had at `read_at`, in monotonic seconds."""
        self._reading = reading, read_at

    def receive(self, reading: Timestamp, received_at: float, *, repeated: bool = True) -> None:
        """Add a time that the other machine has sent, and use the best of the last ones.

        A message that was delayed arrives with a time that has passed, so the best one shows the latest time. Only the
        first time is a sign of life: after a lost connection, what was missed arrives after the time.

        Args:
            reading: the time.
            received_at: when it was received, in monotonic seconds.
            repeated: whether the other machine sends its time at regular intervals.
        """
        if not repeated:
            self._confirmed = None
        elif self._confirmed is None:
            self._confirmed = reading
        self._received.append((reading, received_at))
        self.set(*max(self._received, key=lambda received: received[0] - 1000 * received[1]))

    def confirm(self) -> None:
        """Note a sign of life of the other machine without its time."""
        if self._confirmed is not None:
            self._confirmed = self.now()

    def confirmed(self) -> Timestamp:
        """Return the time of the last sign of life; `now` if the other machine does not repeat its time."""
        return self.now() if self._confirmed is None else self._confirmed

    def now(self) -> Timestamp:
        """Return the current time; any thread may call this."""
        if self._reading is None:
            return Timestamp.now()
        reading, read_at = self._reading
        return reading.after(time.monotonic() - read_at)


# Cached, because all reports of a job repeat its times.
@lru_cache(maxsize=10_000)
def _parse_rfc3339(text: str) -> Timestamp:
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        raise ValueError("Expected a time with an offset, such as 2026-01-01T00:00:00.000Z")
    return Timestamp.at(parsed.timestamp())


@lru_cache(maxsize=10_000)
def _format_rfc3339(milliseconds: int) -> bytes:
    parsed = EPOCH + timedelta(milliseconds=milliseconds)
    return b'"%b"' % parsed.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
