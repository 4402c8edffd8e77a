"""The tokens of SignalR connections: signed ids, so that any replica can serve any request of a connection.

They give no access to a job: for that, a client needs a job token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

from headway.timestamp import Timestamp

from ....runtime.settings import ReloadingFile

PURPOSE = b"headway signalr connection 1"
MAC_BYTES = 16
_TOKEN = re.compile(r"1\.([A-Za-z0-9_-]{22})\.(\d{1,15})\.([A-Za-z0-9_-]{22})", re.ASCII)


class ConnectionId(NamedTuple):
    """A connection: its public id, and when it was negotiated."""

    id: str
    issued_at: Timestamp


class ConnectionTokens:
    """Issues and verifies connection tokens.

    Their key is derived from the report keys, which all replicas have: the first one signs. A token is accepted as long
    as the report key that signed it is listed, also by another release and after a restart.

    Args:
        report_keys: the report keys.
    """

    def __init__(self, report_keys: ReloadingFile[tuple[str, ...]]) -> None:
        self._report_keys = report_keys

    def issue(self, now: Timestamp) -> tuple[ConnectionId, str]:
        """Return a new connection and its token, which has only characters that need no encoding in a URL."""
        connection = ConnectionId(secrets.token_urlsafe(16), now)
        claims = f"1.{connection.id}.{int(now)}"
        return connection, f"{claims}.{_mac(self._report_keys.value[0], claims)}"

    def verify(self, token: str) -> ConnectionId | None:
        """Return the connection of a token, or None if the token is not valid."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        claims, _, mac = token.rpartition(".")
        if not any(hmac.compare_digest(_mac(key, claims), mac) for key in self._report_keys.value):
            return None
        return ConnectionId(match[1], Timestamp(int(match[2])))


def _mac(report_key: str, claims: str) -> str:
    key = hmac.digest(report_key.encode(), PURPOSE, hashlib.sha256)
    mac = hmac.digest(key, claims.encode(), hashlib.sha256)[:MAC_BYTES]
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
