"""The records of jobs, read, listed and erased through the notifier's internal listener."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from http import HTTPStatus
from urllib.parse import urlencode
from uuid import UUID

import aiohttp
import structlog
from msgspec import Struct

from headway.contracts import JobStatus, decode
from headway.details import KeptJob

from ...runtime.errors import Conflict, ServiceUnavailable, UnprocessableContent
from ...runtime.internal_requests import is_unknown_job, read_problem, report_key_headers
from ...runtime.settings import ReloadingFile

log: structlog.stdlib.BoundLogger = structlog.get_logger()

TIMEOUT = aiohttp.ClientTimeout(total=5)
RETRY_AFTER_S = 2
NOT_SET_UP = "The submitter needs NOTIFIER_INTERNAL_URL and REPORT_KEY_FILE for this."


class SelectedSnapshot(Struct, frozen=True):
    """The fields of a snapshot that identify a job of a list."""

    id: UUID
    kind: str
    status: JobStatus
    name: str | None = None


class SelectedJob(Struct, frozen=True):
    """A job of a list."""

    job: SelectedSnapshot
    error_type: str | None = None


class SelectedPage(Struct, frozen=True):
    """A page of a list of jobs."""

    jobs: list[SelectedJob]
    next: str | None
    complete: bool


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
        body = await self._request("GET", f"/jobs/{job_id}")
        return None if body is None else decode(body, KeptJob)

    async def erase(self, job_id: UUID, by: str) -> None:
        """Remove what an ended job has left, by an operator; raise Conflict, `not_ended`, if it has not ended."""
        await self._request("DELETE", f"/jobs/{job_id}?{urlencode({'by': by})}")

    async def page(self, parameters: Iterable[tuple[str, str]]) -> SelectedPage:
        """Return a page of the list of jobs, which the parameters of `GET /live/jobs` select."""
        body = await self._request("GET", f"/jobs?{urlencode([*parameters])}")
        if body is None:
            raise _unavailable("it has no lists of jobs")
        return decode(body, SelectedPage)

    async def _request(self, method: str, path: str) -> bytes | None:
        """Return the body of the answer, or None if the job has no record.

        Raises:
            Conflict: the notifier refuses the request because of the job's state.
            UnprocessableContent: the notifier refuses a parameter.
            ServiceUnavailable: the notifier does not answer, or is too old.
        """
        if self._url is None or self._keys is None:
            raise ServiceUnavailable(NOT_SET_UP, retry_after_s=RETRY_AFTER_S)
        headers = report_key_headers(self._keys)
        try:
            async with self._session.request(
                method, self._url + path, headers=headers, allow_redirects=False
            ) as response:
                status, body = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unavailable(type(error).__name__) from error
        if status < HTTPStatus.MULTIPLE_CHOICES:
            return body
        problem = read_problem(response, body)
        if is_unknown_job(response, body):
            return None
        if problem is not None and status == HTTPStatus.CONFLICT:
            raise Conflict(problem.detail, code=problem.code)
        if problem is not None and status == HTTPStatus.UNPROCESSABLE_ENTITY:
            raise UnprocessableContent(problem.detail, field=problem.field)
        raise _unavailable(f"status {status}")


def _unavailable(error: str) -> ServiceUnavailable:
    log.warning("notifier_unavailable", error=error)
    return ServiceUnavailable("The notifier is unavailable; try again.", retry_after_s=RETRY_AFTER_S)
