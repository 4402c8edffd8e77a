"""The messages of the server: envelopes with calls of the client's methods, and the cursor from which a client resumes.

The cursor is the job's version and its percentage. So any replica continues exactly where another one has stopped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from ....watching.snapshot import PublishedSnapshot
from ..calls import JOB_CHANGED, UNKNOWN, UPDATE_PROGRESS, WireFormat, encode_percent

HUB = "JobProgressHub"
KEEP_ALIVE = b"{}"
ProtocolVersion = tuple[int, int]
TEXT_STOPS, ERROR_STOPS = (1, 4), (2, 0)  # the protocol versions from which on these stop a client
_CURSOR = re.compile(r"(\d{0,16})-(\d{0,3}(?:\.\d{1,9})?)", re.ASCII)
_CALL = b'{"H":"%b","M":"%b","A":[%b]}'


class Cursor(NamedTuple):
    """What a client has: the newest version, None without one, and the last percentage, as JSON."""

    version: int | None = None
    percent: bytes = UNKNOWN

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Return a client's cursor; one that cannot be read means that the client has nothing."""
        match = _CURSOR.fullmatch(text or "")
        return cls(int(match[1]) if match[1] else None, match[2].encode()) if match else cls()

    def encode(self) -> bytes:
        """Return the cursor as text. It is never empty, or clients would connect again at once."""
        return b"%b-%b" % (b"" if self.version is None else b"%d" % self.version, self.percent)


def wire_format(frame: Callable[[bytes], bytes]) -> WireFormat:
    """Return the wire format of a transport.

    Args:
        frame: encodes an envelope as the transport sends it.
    """

    def encode(snapshot: PublishedSnapshot, *methods: tuple[str, bytes]) -> bytes:
        cursor = Cursor(snapshot.version, snapshot.encoded(encode_percent))
        calls = (_CALL % (HUB.encode(), name.encode(), argument) for name, argument in methods)
        return frame(encode_envelope(cursor, b",".join(calls)))

    def changed(snapshot: PublishedSnapshot) -> bytes:
        return encode(snapshot, (JOB_CHANGED, snapshot.text))

    def progressed(snapshot: PublishedSnapshot) -> bytes:
        percent = snapshot.encoded(encode_percent)
        return encode(snapshot, (UPDATE_PROGRESS, percent), (JOB_CHANGED, snapshot.text))

    return WireFormat(frame, changed, progressed)


def encode_envelope(cursor: Cursor, calls: bytes = b"", *, initial: bool = False) -> bytes:
    """Return an envelope.

    Args:
        cursor: what the client has when it has received the envelope.
        calls: the calls of the client's methods, as the elements of a JSON array.
        initial: whether it is the first one of a connection, but not of one that resumes.
    """
    return b'{"C":"%b",%b"M":[%b]}' % (cursor.encode(), b'"S":1,' if initial else b"", calls)


def encode_error(cursor: Cursor, error: str, protocol: ProtocolVersion) -> bytes:
    """Return what makes a client stop for good, instead of reconnecting for hours.

    Clients of protocol 2.0 obey `E`, and those of 1.2 and 1.3 `D`. Those in between have nothing of the kind, but stop
    at a text that is not JSON, and show it.
    """
    if TEXT_STOPS <= protocol < ERROR_STOPS:
        return error.encode()
    return b'{"C":"%b","M":[],"D":1,"E":%b}' % (cursor.encode(), msgspec.json.encode(error))
