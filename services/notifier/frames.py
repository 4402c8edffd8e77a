"""The frames of a WebSocket as a server reads and writes them (RFC 6455 §5 to §7); without a loop or a socket.

No extension is ever agreed on, and nothing is asked of the other side but what the RFC demands. A message that is too
big is refused by its frame's head, before its data has come.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

HEAD, MASK = 2, 4  # bytes
MOST_CONTROL = 125  # bytes of a control frame's data (§5.5)
_SHORT, _MIDDLE, _LONG = (Struct(head).pack for head in ("!BB", "!BBH", "!BBQ"))
TOLD = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})  # what may be told of the codes below 3000 (§7.4)


class Opcode(IntEnum):
    """What a frame is (§5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """Why a connection is closed (§7.4.1, and https://www.iana.org/assignments/websocket)."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005  # never sent: the other side has named none
    ABNORMAL = 1006  # never sent: the connection was lost
    INVALID_TEXT = 1007
    POLICY_VIOLATION = 1008
    TOO_BIG = 1009
    RESTART = 1012
    TRY_LATER = 1013


class Violation(Exception):
    """The other side does what it may not; the connection is closed with a code."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Frame(NamedTuple):
    """A whole message or a control frame; a piece of a message, which tells nothing yet, is a CONTINUATION."""

    opcode: Opcode
    data: bytes


class Frames:
    """What has come of a connection's frames."""

    __slots__ = ("_came", "_kind", "_most", "_pieces")

    def __init__(self, most: int) -> None:
        self._most = most  # bytes of a message
        self._came: bytes | bytearray = b""  # a connection that is silent keeps no buffer
        self._kind: Opcode | None = None  # of the message whose pieces are coming
        self._pieces: bytes | bytearray = b""

    def feed(self, data: bytes) -> None:
        """Take bytes as they come."""
        if not self._came:
            self._came = data
            return
        if isinstance(self._came, bytes):
            self._came = bytearray(self._came)
        self._came += data

    @property
    def waiting(self) -> bool:
        """Tell whether bytes have come that were not read yet."""
        return bool(self._came)

    def next(self) -> Frame | None:
        """Return the next frame, None until all of it is there. Raises Violation."""
        came = self._came
        if len(came) < HEAD:
            return None
        opcode = self._checked(came[0], came[1])
        size, start = came[1] & 0x7F, HEAD
        if size > MOST_CONTROL:
            start += 2 if size == 126 else 8
            if len(came) < start:
                return None
            size = _long(bytes(came[HEAD:start]))
        if opcode < Opcode.CLOSE and len(self._pieces) + size > self._most:
            raise Violation(CloseCode.TOO_BIG, "too big")
        end = start + MASK + size
        if len(came) < end:
            return None
        data = _unmasked(bytes(came[start + MASK : end]), bytes(came[start : start + MASK]))
        final = bool(came[0] & 0x80)
        self._drop(end)
        return Frame(opcode, data) if opcode >= Opcode.CLOSE else self._joined(opcode, data, final=final)

    def _checked(self, first: int, second: int) -> Opcode:
        """Read the first two bytes of a frame (§5.2)."""
        if first & 0x70:
            raise Violation(CloseCode.PROTOCOL_ERROR, "no extension was agreed on")
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError:
            raise Violation(CloseCode.PROTOCOL_ERROR, "no such opcode") from None
        if not second & 0x80:
            raise Violation(CloseCode.PROTOCOL_ERROR, "a client masks its frames")
        if opcode >= Opcode.CLOSE and (not first & 0x80 or second & 0x7F > MOST_CONTROL):
            raise Violation(CloseCode.PROTOCOL_ERROR, "a control frame is short and whole")
        if opcode < Opcode.CLOSE and (opcode is Opcode.CONTINUATION) != (self._kind is not None):
            raise Violation(CloseCode.PROTOCOL_ERROR, "a message follows another, piece by piece")
        return opcode

    def _drop(self, size: int) -> None:
        """Forget what has been read."""
        if size == len(self._came):
            self._came = b""
        elif isinstance(self._came, bytes):
            self._came = bytearray(self._came[size:])
        else:
            del self._came[:size]

    def _joined(self, opcode: Opcode, data: bytes, *, final: bool) -> Frame:
        """Join the pieces of a message (§5.4)."""
        if not final:
            self._kind = self._kind or opcode
            self._pieces = bytearray(self._pieces)
            self._pieces += data
            return Frame(Opcode.CONTINUATION, b"")
        kind, data = self._kind or opcode, bytes(self._pieces) + data
        self._kind, self._pieces = None, b""
        return Frame(kind, data)


def frame(opcode: Opcode, data: bytes = b"") -> bytes:
    """Spell a whole, unmasked frame, as a server's are (§5.1)."""
    first, size = 0x80 | opcode, len(data)
    if size <= MOST_CONTROL:
        return _SHORT(first, size) + data
    return (_MIDDLE(first, 126, size) if size < 1 << 16 else _LONG(first, 127, size)) + data


def closing(code: CloseCode | int, reason: str = "") -> bytes:
    """Spell a frame that closes (§5.5.1)."""
    if code == CloseCode.NO_STATUS:
        return frame(Opcode.CLOSE)
    return frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())


def close_code(data: bytes) -> int:
    """Read why the other side closes (§7.1.5). Raises Violation."""
    if not data:
        return CloseCode.NO_STATUS
    code = int.from_bytes(data[:2], "big")
    if len(data) < 2 or not (code in TOLD or 3000 <= code < 5000):
        raise Violation(CloseCode.PROTOCOL_ERROR, "no such close code")
    text_of(data[2:])
    return code


def text_of(data: bytes) -> str:
    """Read text (§8.1). Raises Violation."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Violation(CloseCode.INVALID_TEXT, "text is UTF-8") from None


def _long(spelt: bytes) -> int:
    """Read a length of two or eight bytes, which is never spelt longer than it needs to be (§5.2)."""
    size = int.from_bytes(spelt, "big")
    if size <= (MOST_CONTROL if len(spelt) == 2 else 0xFFFF) or size >> 63:
        raise Violation(CloseCode.PROTOCOL_ERROR, "no such length")
    return size


def _unmasked(data: bytes, mask: bytes) -> bytes:
    """Take a mask off (§5.3): all bytes at once, as one number."""
    size = len(data)
    spread = (mask * (size // MASK + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(spread, "big")).to_bytes(size, "big")
