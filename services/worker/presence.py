"""The presence of this worker: `POST /workers` to the notifier every few seconds, for lists of workers and of kinds.

No job depends on it. A notifier that does not answer is asked again sooner, one of an older version less often.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
import structlog
from msgspec.structs import replace

import headway
from headway.contracts import MAX_NAME_LENGTH, NULL, Json, encode
from headway.details import MAX_SCHEMA_BYTES, MAX_WORKER_BYTES, KindInfo, WorkerInfo
from headway.json_schema import json_schema

from ..runtime.internal_requests import report_key_headers
from ..runtime.request import JSON
from ..runtime.settings import ReloadingFile
from .registry import Registry
from .settings import WorkerSettings

log: structlog.stdlib.BoundLogger = structlog.get_logger()

TIMEOUT = aiohttp.ClientTimeout(total=3)
INTERVAL_S = 5.0  # a worker counts as gone after 15 s
RETRY_INTERVAL_S = 1.0  # while the notifier or its store is unavailable
UNKNOWN_INTERVAL_S = 60.0  # a notifier of an older version has no such list


class PresencePoster:
    """Posts the worker at regular intervals."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, keys: ReloadingFile[tuple[str, ...]], info: WorkerInfo
    ) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/workers"
        self._keys = keys
        self._info = info

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, keys: ReloadingFile[tuple[str, ...]], info: WorkerInfo
    ) -> AsyncIterator[PresencePoster]:
        """Open an HTTP session; the notifier need not be reachable yet.

        Args:
            url: the notifier's internal listener.
            keys: the report keys; the first one is used.
            info: the worker, with what does not change while it runs.
        """
        connector, cookies = aiohttp.TCPConnector(force_close=True), aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, cookie_jar=cookies) as session:
            yield cls(session, url, keys, info)

    def on_queue_measured(self, depth: int | None) -> None:
        """Called with about how many messages the queue has, None if that is unknown."""
        self._info = replace(self._info, queue_depth=depth)

    async def run(self, running: Callable[[], int]) -> None:
        """Post the worker until cancelled; `running` returns how many jobs run."""
        while True:
            self._info = replace(self._info, running=running())
            status = await self._post()
            await asyncio.sleep(_interval_s(status))

    async def _post(self) -> int | None:
        """Post the worker; return the status of the answer, None if there is none."""
        headers = {**report_key_headers(self._keys), "Content-Type": JSON}
        try:
            async with self._session.post(
                self._url, data=encode(self._info), headers=headers, allow_redirects=False
            ) as response:
                if response.status >= HTTPStatus.BAD_REQUEST:
                    log.debug("presence_refused", status=response.status)
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.debug("presence_failed", error=type(error).__name__)
            return None


def _interval_s(status: int | None) -> float:
    if status == HTTPStatus.NOT_FOUND:
        return UNKNOWN_INTERVAL_S
    is_unavailable = status is None or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return RETRY_INTERVAL_S if is_unavailable else INTERVAL_S


def worker_info(worker_id: str, settings: WorkerSettings, registry: Registry) -> WorkerInfo:
    """Return the worker without what changes while it runs. A schema that is too large is left out."""
    kinds, size = [], 0
    for kind, job in sorted(registry.items()):
        schema = json_schema(job.payload_type()) or b""
        size += len(schema)
        fits = schema and len(schema) <= MAX_SCHEMA_BYTES and size <= MAX_WORKER_BYTES
        kinds.append(KindInfo(kind, Json(schema) if fits else NULL))
    return WorkerInfo(
        id=worker_id,
        host=socket.gethostname()[:MAX_NAME_LENGTH],
        version=headway.__version__,
        queue=settings.queue_name,
        slots=settings.worker_concurrency,
        running=0,
        kinds=tuple(kinds),
    )
