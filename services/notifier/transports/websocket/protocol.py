"""The WebSocket protocol (RFC 6455) of websockets: parses what clients send, and encodes what the server sends."""

from __future__ import annotations

from functools import lru_cache

from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import Protocol, Side

from headway.timestamp import Timestamp

from ...logs.piece import LogPiece, encode_json
from ...watching.snapshot import PublishedSnapshot

MAX_MESSAGE_BYTES = 64 * 1024
PING = Frame(Opcode.PING, b"").serialize(mask=False)


def open_protocol(max_bytes: int) -> Protocol:
    """Return the protocol of an open connection, whose messages may have up to `max_bytes`."""
    return Protocol(Side.SERVER, max_size=max_bytes)


# Stands for the protocols of all idle connections, each of which would occupy more than 1 kB. It never receives data.
IDLE_PROTOCOL = open_protocol(MAX_MESSAGE_BYTES)


def encode_text(data: bytes) -> bytes:
    """Return a text frame; the data is UTF-8."""
    return Frame(Opcode.TEXT, data).serialize(mask=False)


def encode_hello(now: Timestamp, silence_s: float, reconnect_s: float | None = None) -> bytes:
    """Return a hello.

    Args:
        now: the server's time.
        silence_s: after how long without a message the client reconnects.
        reconnect_s: within which time the client reconnects, after this server has closed the connection.
    """
    last = b"" if reconnect_s is None else b',"reconnect_s":%g' % reconnect_s
    return encode_text(b'{"hello":{"now":%b,"silence_s":%g%b}}' % (now.to_json(), silence_s, last))


@lru_cache(maxsize=1)  # encoded once for all connections
def encode_heartbeat(now: Timestamp, silence_s: float) -> bytes:
    """Return a hello, which shows a page's script that the server is alive, and a ping, which the client answers."""
    return encode_hello(now, silence_s) + PING


def encode_snapshot(snapshot: PublishedSnapshot) -> bytes:
    """Return a snapshot as a text frame."""
    return encode_text(b'{"job":%b}' % snapshot.text)


def encode_log(piece: LogPiece) -> bytes:
    """Return a piece of a log as a text frame."""
    return encode_text(b'{"log":%b}' % piece.encoded(encode_json))


def encode_close(code: CloseCode, reason: str) -> bytes:
    """Return a close frame."""
    return Frame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(mask=False)


def client_frame_size(frame: Frame) -> int:
    """Return how many bytes a client's frame has, with its mask and the shortest encoding of its length (§5.2)."""
    size = len(frame.data)
    return size + (6 if size < 126 else 8 if size < 65_536 else 14)
