"""The settings of the notifier."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ..runtime.settings import Delay, OriginList, PerSecond, Port, Positive, Seconds, Secret, Settings
from .redis_client.url import redis_from_url

MAX_SILENT_PINGS = 2.5


class NotifierSettings(Settings, frozen=True, kw_only=True):
    """The settings of the notifier, read from environment variables of the same names in upper case."""

    service: ClassVar[str] = "notifier"

    port: Port = 8081
    """The port for clients that watch."""
    redis_url: Secret
    """One server, Sentinel or a cluster: see docs/run-in-production.md#redis."""
    allowed_origins: OriginList = ()
    """The origins whose pages may watch jobs, the submitter's included."""
    report_key_file: Path
    """The keys that authorize reports, one per line."""
    token_public_key_file: Path
    """The public keys that verify tokens, one PEM block after another."""
    silence_s: Seconds = 5
    """After how long without an update a watched job is read again; this interval grows up to twelvefold."""
    deaf_s: Seconds = 5
    """After how long without a message or a reply a connection to Redis counts as lost."""
    unready_s: Seconds = 15
    """After how long without Redis a replica closes its connections, so that their clients find another replica."""
    ping_s: Seconds = 20
    """The interval of hellos, pings and comments. It is shorter than the idle timeout of common proxies."""
    max_connections: Positive = 20_000
    """How many connections one replica accepts."""
    max_watches: Positive = 1_000
    """How many jobs one connection may watch."""
    messages_per_s: PerSecond = 100
    """How many messages per second one WebSocket or SignalR connection may send, on average."""
    first_message_s: Seconds = 10
    """How long a WebSocket or SignalR connection may stay open without watching a job."""
    stuck_s: Seconds = 30
    """How long a slow consumer may read nothing before its connection is closed."""
    signalr_by_job_id: bool = False
    """Whether a SignalR client may watch a job by its id alone, if that is random. Pages of 2015 know no token."""
    drain_s: Delay = 10
    """The time over which open connections are closed after SIGTERM."""

    @property
    def replica_name(self) -> str:
        """A name that this replica keeps when it restarts on the same machine or in the same container."""
        return f"{socket.gethostname()}:{self.internal_port}"

    @property
    def max_silence_s(self) -> float:
        """After how long without anything received a client or this server counts their connection as lost."""
        return MAX_SILENT_PINGS * self.ping_s

    @classmethod
    def validate(cls, values: Mapping[str, Any]) -> list[str]:
        """Return the problems of REDIS_URL."""
        try:
            if url := values.get("redis_url"):
                redis_from_url(url)
        except ValueError as error:
            return [f"REDIS_URL: {error}"]
        return []
