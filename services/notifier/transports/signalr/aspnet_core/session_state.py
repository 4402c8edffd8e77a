"""The sessions of long polls between two polls, as Redis keeps them."""

from __future__ import annotations

from msgspec import Struct


class JobState(Struct, frozen=True):
    """A job of a session.

    Attributes:
        token: the token with which the client watches it, None for that of the connection.
        version: the newest version for which the client's methods were called, None if they are not called.
        percent: the last one with which `updateProgress` was called, as JSON.
        streams: the newest version of each stream, by the id of its invocation.
    """

    token: str | None
    version: int | None
    percent: str
    streams: dict[str, int]


class SessionState(Struct, frozen=True):
    """A session after its handshake.

    Attributes:
        protocol: the name of its protocol.
        received: the bytes of a message that is not complete.
        jobs: the jobs that it watches, by their ids.
    """

    protocol: str
    received: bytes
    jobs: dict[str, JobState]
