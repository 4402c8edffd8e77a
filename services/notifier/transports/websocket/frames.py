"""The frames of a WebSocket server (RFC 6455 §5 to §7), encoded and parsed without I/O.

Extensions are not supported. A message that is too big is rejected when the head of its frame arrives, before its data.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

HEADER_BYTES, MASK_BYTES = 2, 4  # bytes
MAX_CONTROL_PAYLOAD = 125  # bytes (§5.5); also the largest length that fits the second byte of a head (§5.2)
_pack_head_7_bit, _pack_head_16_bit, _pack_head_64_bit = (Struct(head).pack for head in ("!BB", "!BBH", "!BBQ"))
VALID_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})  # of those below 3000 (§7.4)


class Opcode(IntEnum):
    """The type of a frame (§5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """The reason for closing a connection (§7.4.1, and https://www.iana.org/assignments/websocket)."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005  # never sent: the close frame had no code
    ABNORMAL = 1006  # never sent: the connection was lost
    INVALID_TEXT = 1007
    POLICY_VIOLATION = 1008
    TOO_BIG = 1009
    RESTART = 1012
    TRY_LATER = 1013


class ProtocolError(Exception):
    """The client violated the protocol. The connection must be closed with `code`; the text is the reason."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Frame(NamedTuple):
    """A control frame or a complete message. A fragment that does not complete one is an empty CONTINUATION."""

    opcode: Opcode
    data: bytes


class FrameParser:
    """An incremental parser of the frames of one connection."""

    __slots__ = ("_buffer", "_fragments", "_max_size", "_message_opcode")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size  # bytes of a message
        self._buffer: bytes | bytearray = b""  # not an empty bytearray, to save memory while idle
        self._message_opcode: Opcode | None = None  # of the incomplete message, if there is one
        self._fragments: bytes | bytearray = b""

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        if not self._buffer:
            self._buffer = data
            return
        if isinstance(self._buffer, bytes):
            self._buffer = bytearray(self._buffer)
        self._buffer += data

    @property
    def has_data(self) -> bool:
        """Whether the buffer contains unparsed bytes."""
        return bool(self._buffer)

    def next_frame(self) -> Frame | None:
        """Return the next frame, or None until it is complete.

        Raises:
            ProtocolError: the bytes are not a valid frame, or the message is too big.
        """
        buffer = self._buffer
        if len(buffer) < HEADER_BYTES:
            return None
        opcode = self._parse_opcode(buffer[0], buffer[1])
        size, start = buffer[1] & 0x7F, HEADER_BYTES
        if size > MAX_CONTROL_PAYLOAD:
            start += 2 if size == 126 else 8
            if len(buffer) < start:
                return None
            size = _parse_extended_length(bytes(buffer[HEADER_BYTES:start]))
        if opcode < Opcode.CLOSE and len(self._fragments) + size > self._max_size:
            raise ProtocolError(CloseCode.TOO_BIG, "too big")
        end = start + MASK_BYTES + size
        if len(buffer) < end:
            return None
        data = _unmask(bytes(buffer[start + MASK_BYTES : end]), bytes(buffer[start : start + MASK_BYTES]))
        final = bool(buffer[0] & 0x80)
        self._discard(end)
        return Frame(opcode, data) if opcode >= Opcode.CLOSE else self._join(opcode, data, final=final)

    def _parse_opcode(self, first: int, second: int) -> Opcode:
        """Validate the first two bytes of a frame and return its opcode (§5.2)."""
        if first & 0x70:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "no extension was agreed on")
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "no such opcode") from None
        if not second & 0x80:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "a client masks its frames")
        if opcode >= Opcode.CLOSE and (not first & 0x80 or second & 0x7F > MAX_CONTROL_PAYLOAD):
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "a control frame is short and whole")
        if opcode < Opcode.CLOSE and (opcode is Opcode.CONTINUATION) != (self._message_opcode is not None):
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "a message follows another, piece by piece")
        return opcode

    def _discard(self, size: int) -> None:
        """Remove parsed bytes from the buffer."""
        if size == len(self._buffer):
            self._buffer = b""
        elif isinstance(self._buffer, bytes):
            self._buffer = bytearray(self._buffer[size:])
        else:
            del self._buffer[:size]

    def _join(self, opcode: Opcode, data: bytes, *, final: bool) -> Frame:
        """Join the fragments of a message (§5.4)."""
        if not final:
            self._message_opcode = self._message_opcode or opcode
            self._fragments = bytearray(self._fragments)
            self._fragments += data
            return Frame(Opcode.CONTINUATION, b"")
        message_opcode, data = self._message_opcode or opcode, bytes(self._fragments) + data
        self._message_opcode, self._fragments = None, b""
        return Frame(message_opcode, data)


def encode_frame(opcode: Opcode, data: bytes = b"") -> bytes:
    """Return an unfragmented, unmasked frame: a server does not mask (§5.1)."""
    first, size = 0x80 | opcode, len(data)
    if size <= MAX_CONTROL_PAYLOAD:
        return _pack_head_7_bit(first, size) + data
    return (_pack_head_16_bit(first, 126, size) if size < 1 << 16 else _pack_head_64_bit(first, 127, size)) + data


def encode_close(code: CloseCode | int, reason: str = "") -> bytes:
    """Return a close frame (§5.5.1)."""
    if code == CloseCode.NO_STATUS:
        return encode_frame(Opcode.CLOSE)
    return encode_frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())


def parse_close_code(data: bytes) -> int:
    """Parse the code of a close frame (§7.1.5).

    Raises:
        ProtocolError: the code or the reason is not valid.
    """
    if not data:
        return CloseCode.NO_STATUS
    code = int.from_bytes(data[:2], "big")
    if len(data) < 2 or not (code in VALID_CLOSE_CODES or 3000 <= code < 5000):
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "no such close code")
    decode_text(data[2:])
    return code


def decode_text(data: bytes) -> str:
    """Decode UTF-8 (§8.1).

    Raises:
        ProtocolError: the data is not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ProtocolError(CloseCode.INVALID_TEXT, "text is UTF-8") from None


def _parse_extended_length(encoded: bytes) -> int:
    """Parse a length of two or eight bytes; it must use the shortest encoding (§5.2)."""
    size = int.from_bytes(encoded, "big")
    if size <= (MAX_CONTROL_PAYLOAD if len(encoded) == 2 else 0xFFFF) or size >> 63:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "no such length")
    return size


def _unmask(data: bytes, mask: bytes) -> bytes:
    """Remove the mask (§5.3). XOR of two large integers is much faster than a loop over the bytes."""
    size = len(data)
    repeated_mask = (mask * (size // MASK_BYTES + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated_mask, "big")).to_bytes(size, "big")
