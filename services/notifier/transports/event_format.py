"""The wire format of event streams: what is the same for all of them is encoded once."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import NamedTuple

from headway.timestamp import Timestamp

from ...runtime.aiohttp_adapter import encode_chunk
from ..logs.piece import LogPiece, encode_json
from ..watching.snapshot import PublishedSnapshot

STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store, no-transform",  # no-transform: a proxy that compresses would buffer events
    "X-Accel-Buffering": "no",  # https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_buffering
}
LINE_BREAKS_TO_SPACES = bytes.maketrans(b"\r\n", b"  ")


class ResumePoint(NamedTuple):
    """What a client has of a job and its log: the newest version, and the offset in the log."""

    version: int
    offset: int

    def encode_id(self) -> bytes:
        """Return the id of an event, from which an EventSource resumes both."""
        return b"id: %d.%d\n" % self


def time_comment(now: Timestamp) -> bytes:
    """Return a comment with the server's time; an EventSource ignores it."""
    return b": %b\n\n" % str(now).encode()


@lru_cache(maxsize=2)  # encoded once for all streams, and once more for those in chunks
def encode_heartbeat(now: Timestamp, *, chunked: bool) -> bytes:
    """Return a comment in the wire format of a stream."""
    comment = time_comment(now)
    return encode_chunk(comment) if chunked else comment


def retry_event(max_s: float) -> bytes:
    """Return a random reconnect delay up to a maximum, so that clients do not all reconnect at the same time.

    It is at least half of the maximum: less than a second tells clients that their replica has spread them.
    """
    return b"retry: %d\n\n" % random.uniform(max_s * 500, max_s * 1000)  # noqa: S311 - it spreads load


def encode_snapshot(snapshot: PublishedSnapshot) -> bytes:
    """Return a snapshot as an event that has the version as its id."""
    return b"id: %d\n%b" % (snapshot.version, encode_event(b"job", snapshot.text))


def encode_snapshot_chunk(snapshot: PublishedSnapshot) -> bytes:
    """Return a snapshot as an event in an HTTP/1.1 chunk."""
    return encode_chunk(snapshot.encoded(encode_snapshot))


def encode_log(piece: LogPiece) -> bytes:
    """Return a piece of a log as an event."""
    return encode_event(b"log", piece.encoded(encode_json))


def encode_event(name: bytes, data: bytes) -> bytes:
    """Return an event. Line breaks in the data, which JSON allows between its tokens, become spaces."""
    return b"event: %b\ndata: %b\n\n" % (name, data.translate(LINE_BREAKS_TO_SPACES))
