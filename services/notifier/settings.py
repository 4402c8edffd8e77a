"""The settings of the notifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ..runtime.settings import Delay, OriginList, PerSecond, Port, Positive, Seconds, Secret, Settings
from .redis_client.url import redis_from_url


class NotifierSettings(Settings, frozen=True, kw_only=True):
    """The settings of the notifier, read from environment variables of the same names in upper case."""

    service: ClassVar[str] = "notifier"

    port: Port = 8081
    redis_url: Secret  # the forms are described in docs/run-in-production.md
    allowed_origins: OriginList = ()  # the origins of pages that may watch jobs
    report_key_file: Path  # the keys that authorize reports, one per line
    token_public_key_file: Path  # the public keys that verify tokens, as a sequence of PEM blocks
    silence_s: Seconds = 5  # the record of a watched job is read again after this time without an update
    deaf_s: Seconds = 5  # a subscription to Redis counts as lost after this time without a message or a reply
    ping_s: Seconds = 20  # shorter than the idle timeout of common proxies
    max_connections: Positive = 20_000
    max_watches: Positive = 1_000  # subscriptions of one connection
    messages_per_s: PerSecond = 100  # average of one WebSocket; bursts may be larger, see WebSocketConnection
    first_message_s: Seconds = 10  # a WebSocket is closed if it has not subscribed to a job within this time
    stuck_s: Seconds = 30  # a backpressured connection is closed after this time without draining
    drain_s: Delay = 10  # on SIGTERM, the time over which open connections are closed

    @classmethod
    def validate(cls, values: Mapping[str, Any]) -> list[str]:
        """Return the problems of REDIS_URL."""
        try:
            if url := values.get("redis_url"):
                redis_from_url(url)
        except ValueError as error:
            return [f"REDIS_URL: {error}"]
        return []
