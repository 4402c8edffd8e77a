"""The control stream: the notifier asks this worker to report some of its jobs at once.

The verdicts then say that a job was cancelled, or is watched now. While the notifier can ask, running jobs are reported
once per `HEARTBEAT_S`; otherwise every second. A lost control message costs one heartbeat.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import structlog

from headway.backoff import full_jitter_s
from headway.contracts import MAX_NAME_LENGTH, ControlMessage, decode

from ..runtime.aiohttp_adapter import LINE_TOO_LONG
from ..runtime.internal_requests import report_key_headers
from ..runtime.settings import ReloadingFile
from . import metrics
from .reporting.reporter import Reporter

log: structlog.stdlib.BoundLogger = structlog.get_logger()

SILENCE_S = 50.0  # the notifier sends a comment at least every 20 s
TIMEOUT = aiohttp.ClientTimeout(connect=3, sock_read=SILENCE_S)
BACKOFF_S, MAX_BACKOFF_S = 1.0, 5.0  # the first delay is up to 2 s: the workers of a replica that stops spread out
MAX_HEARTBEAT_WITHOUT_CONTROL_S = 1.0
OK = 200
RANDOM_BYTES = 8


class ControlUnavailable(Exception):
    """The notifier cannot be reached, has no control stream (version 0.1), or has ended it."""


def create_worker_id() -> str:
    """Return an id for this process: the host's name, for people, and a random part."""
    return f"{socket.gethostname()[: MAX_NAME_LENGTH - 2 * RANDOM_BYTES - 1]}-{secrets.token_hex(RANDOM_BYTES)}"


class ControlListener:
    """Keeps a control stream open, and passes its messages to the reporter.

    Args:
        session: the HTTP session.
        url: the notifier's internal listener.
        keys: the report keys; the first one is used.
        worker_id: the id in the worker's reports.
        reporter: sends the reports.
        heartbeat_s: the reporter's heartbeat while the stream is open.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        keys: ReloadingFile[tuple[str, ...]],
        worker_id: str,
        reporter: Reporter,
        heartbeat_s: float,
    ) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/control"
        self._keys = keys
        self._worker_id = worker_id
        self._reporter = reporter
        self._heartbeat_s = heartbeat_s
        self.connected = False
        self._set_connected(False)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        keys: ReloadingFile[tuple[str, ...]],
        worker_id: str,
        reporter: Reporter,
        heartbeat_s: float,
    ) -> AsyncIterator[ControlListener]:
        """Open an HTTP session; the notifier need not be reachable yet.

        Each request opens a new connection, which may reach another replica.
        """
        connector, cookies = aiohttp.TCPConnector(force_close=True), aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, cookie_jar=cookies) as session:
            yield cls(session, url, keys, worker_id, reporter, heartbeat_s)

    async def run(self) -> None:
        """Keep the stream open until cancelled; on errors retry with backoff and full jitter."""
        failures = 0
        while True:
            try:
                await self._listen()
            except ControlUnavailable as error:
                if self.connected:
                    log.warning("control_stream_lost", error=str(error))
                    failures = 0
                self._set_connected(False)
                failures += 1
                await asyncio.sleep(full_jitter_s(failures, BACKOFF_S, MAX_BACKOFF_S))

    async def _listen(self) -> None:
        """Open the stream and obey its messages, without following redirects, which would receive the report key.

        Raises:
            ControlUnavailable: the stream cannot be opened, has ended or was silent for too long.
        """
        query, headers = {"worker": self._worker_id}, report_key_headers(self._keys)
        try:
            async with self._session.get(self._url, params=query, headers=headers, allow_redirects=False) as response:
                if response.status != OK:
                    raise ControlUnavailable(f"GET /control returned status {response.status}")
                async for line in response.content:
                    if line.startswith(b"data:"):
                        self._on_message(line[len(b"data:") :])
        except (aiohttp.ClientError, TimeoutError, OSError, LINE_TOO_LONG) as error:
            raise ControlUnavailable(type(error).__name__) from error
        raise ControlUnavailable("the notifier has ended the stream")

    def _on_message(self, data: bytes) -> None:
        """Called with each message; the first one shows that the notifier can ask for reports."""
        try:
            message = decode(data, ControlMessage)
        except msgspec.DecodeError:
            log.debug("control_message_ignored")
            return
        self._set_connected(True)
        metrics.CONTROL_MESSAGES.inc()
        self._reporter.report_now(None if message.report == "all" else frozenset(message.report))

    def _set_connected(self, connected: bool) -> None:
        self.connected = connected
        metrics.CONTROL_CONNECTED.set(connected)
        without_control_s = min(self._heartbeat_s, MAX_HEARTBEAT_WITHOUT_CONTROL_S)
        self._reporter.set_heartbeat(self._heartbeat_s if connected else without_control_s)
