"""A moment as the wire spells it: RFC 3339 in UTC with milliseconds."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MIN_MS, MAX_MS = -62_135_596_800_000, 253_402_300_799_999  # what RFC 3339 can spell


class Timestamp(int):
    """A moment, in milliseconds since the epoch."""

    __slots__ = ()

    @classmethod
    def now(cls) -> Timestamp:
        """Tell the present moment of this machine's clock."""
        return cls(time.time_ns() // 1_000_000)

    @classmethod
    def parse(cls, text: object) -> Timestamp:
        """Read an RFC 3339 time; ValueError names what is wrong with it."""
        if not isinstance(text, str):
            raise ValueError("Expected an RFC 3339 time")  # noqa: TRY004 - msgspec adds the path to a ValueError
        return _parse_rfc3339(text)

    @classmethod
    def at(cls, seconds: float) -> Timestamp:
        """Return the moment so many seconds after the epoch; ValueError when it could not be written."""
        milliseconds = round(seconds * 1000)
        if not MIN_MS <= milliseconds <= MAX_MS:
            raise ValueError("Expected a time of the years 1 to 9999 in UTC")
        return cls(milliseconds)

    def after(self, seconds: float) -> Timestamp:
        """Return the moment that many seconds later, or the last that can be written."""
        return Timestamp(min(MAX_MS, self + round(seconds * 1000)))

    def __str__(self) -> str:
        """Spell it as RFC 3339 in UTC with milliseconds."""
        return self.to_json()[1:-1].decode()

    def to_json(self) -> bytes:
        """Spell it as JSON does."""
        return _format_rfc3339(int(self))


# All reports of a job repeat its times, and those of a lease.
@lru_cache(maxsize=10_000)
def _parse_rfc3339(text: str) -> Timestamp:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("Expected a time with its offset, such as 2026-01-01T00:00:00.000Z")
    return Timestamp.at(moment.timestamp())


@lru_cache(maxsize=10_000)
def _format_rfc3339(milliseconds: int) -> bytes:
    moment = EPOCH + timedelta(milliseconds=milliseconds)
    return b'"%b"' % moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
