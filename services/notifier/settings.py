"""What the notifier can be told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ..runtime.settings import Delay, OriginList, Port, Positive, Seconds, Secret, Settings
from .redis_client.url import redis_from_url


class NotifierSettings(Settings, frozen=True, kw_only=True):
    """What the notifier can be told."""

    service: ClassVar[str] = "notifier"

    port: Port = 8081
    redis_url: Secret  # one server, what sentinels name, or a cluster: see docs/operations.md
    allowed_origins: OriginList = ()  # the pages that may watch from a browser
    report_key_file: Path  # the keys that workers may report with, one a line
    token_public_key_file: Path  # the public keys of whoever signs tokens, one PEM block after another
    silence_s: Seconds = 5  # a watched job unheard of for so long is read again
    deaf_s: Seconds = 5  # a subscription that hears nothing for so long, not even an answer, is made anew
    ping_s: Seconds = 20  # below every proxy's idle time-out
    max_connections: Positive = 20_000
    max_watches: Positive = 1_000  # jobs on one connection
    messages_per_s: Seconds = 100  # from one socket on average; as many watches as it may have come at once
    first_message_s: Seconds = 10  # within which a socket asks for something
    stuck_s: Seconds = 30  # how long a connection may take nothing though much waits for it
    drain_s: Delay = 10  # over which open connections are closed on SIGTERM

    @classmethod
    def validate(cls, values: Mapping[str, Any]) -> list[str]:
        """Name what is wrong with the address of Redis."""
        try:
            if url := values.get("redis_url"):
                redis_from_url(url)
        except ValueError as error:
            return [f"REDIS_URL: {error}"]
        return []
