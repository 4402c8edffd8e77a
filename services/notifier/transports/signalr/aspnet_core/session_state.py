"""The sessions of long polls between two polls, as Redis keeps them. They contain no token."""

from __future__ import annotations

from msgspec import Struct

from headway.timestamp import Timestamp

from ...auth import WatchRequest
from .protocols import ProtocolName


class JobState(Struct, frozen=True):
    """A job of a session.

    Attributes:
        request: what the token that the client has sent for the job allows, and the key that signed it.
        is_of_connection: whether that was the token of the connection.
        version: the newest version for which the client's methods were called, None if they are not called.
        percent: the last one with which `updateProgress` was called, as JSON.
        streams: the newest version of each stream, by the id of its invocation.
    """

    request: WatchRequest
    is_of_connection: bool
    version: int | None
    percent: str
    streams: dict[str, int]


class SessionState(Struct, frozen=True, kw_only=True):
    """A session after its handshake: its connection was authorized.

    Attributes:
        protocol: the name of its protocol.
        received: the bytes of a message that is not complete.
        has_subscribed: whether the client has ever watched a job.
        jobs: the jobs that it watches.
        messages_left: how many messages the client might send at once at the next time.
        messages_left_at: this time.
        allowance_left: what is left of its allowance for rejected tokens.
    """

    protocol: ProtocolName
    received: bytes
    has_subscribed: bool
    jobs: list[JobState]
    messages_left: float
    messages_left_at: Timestamp
    allowance_left: int
