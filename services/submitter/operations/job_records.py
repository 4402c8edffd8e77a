"""The records of jobs, read and erased through the notifier's internal listener."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from uuid import UUID

import aiohttp
import msgspec
import structlog
from msgspec import Struct

from headway.contracts import decode
from headway.details import KeptJob

from ...runtime.errors import Conflict, ServiceUnavailable
from ...runtime.settings import ReloadingFile

log: structlog.stdlib.BoundLogger = structlog.get_logger()

TIMEOUT = aiohttp.ClientTimeout(total=5)
RETRY_AFTER_S = 2


class _Problem(Struct):
    code: str = ""
    detail: str = ""


class JobRecords:
    """The notifier's records."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str | None, keys: ReloadingFile[tuple[str, ...]] | None
    ) -> None:
        self._session = session
        self._url = None if url is None else url.rstrip("/")
        self._keys = keys

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str | None, keys: ReloadingFile[tuple[str, ...]] | None) -> AsyncIterator[JobRecords]:
        """Open a session to the notifier.

        Args:
            url: the notifier's internal listener.
            keys: the report keys; the first one is used.
        """
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield cls(session, url, keys)

    async def read(self, job_id: UUID) -> KeptJob | None:
        """Return a job's record with the message that was kept of it, or None if the job has no record."""
        body = await self._request("GET", job_id)
        return None if body is None else decode(body, KeptJob)

    async def erase(self, job_id: UUID) -> None:
        """Remove what an ended job has left; raise Conflict, `not_ended`, if it has not ended."""
        await self._request("DELETE", job_id)

    async def _request(self, method: str, job_id: UUID) -> bytes | None:
        """Return the body of the answer, or None if the job has no record.

        Raises:
            Conflict: the notifier refuses the request because of the job's state.
            ServiceUnavailable: the notifier does not answer, or is too old.
        """
        if self._url is None or self._keys is None:
            raise ServiceUnavailable("The submitter needs NOTIFIER_INTERNAL_URL and REPORT_KEY_FILE for this.")
        headers = {"Authorization": f"Bearer {self._keys.value[0]}"}
        url = f"{self._url}/jobs/{job_id}"
        try:
            async with self._session.request(method, url, headers=headers, allow_redirects=False) as response:
                status, body = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unavailable(type(error).__name__) from error
        if status < HTTPStatus.MULTIPLE_CHOICES:
            return body
        problem = _read_problem(body)
        if (status, problem.code) == (HTTPStatus.NOT_FOUND, "unknown"):
            return None
        if status == HTTPStatus.CONFLICT and problem.code:
            raise Conflict(problem.detail, code=problem.code)
        raise _unavailable(f"status {status}")


def _read_problem(body: bytes) -> _Problem:
    try:
        return decode(body, _Problem)
    except msgspec.DecodeError:  # of a proxy
        return _Problem()


def _unavailable(error: str) -> ServiceUnavailable:
    log.warning("notifier_unavailable", error=error)
    return ServiceUnavailable("The notifier is unavailable; try again.", retry_after_s=RETRY_AFTER_S)
