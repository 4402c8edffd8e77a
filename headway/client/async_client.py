"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias, TypeVar
from uuid import UUID, uuid4

import aiohttp
import msgspec
from msgspec import Struct

from headway.client.links import LOCAL_URL, Link
from headway.client.notifier_connection import NotifierConnection
from headway.client.retries import RequestFailed, Unreachable, request_with_retry
from headway.contracts import ENDED, JobError, JobSnapshot, decode, encode
from headway.tokens import InvalidToken, claimed_job

__all__ = ["Client", "InvalidToken", "JobCancelled", "JobFailed", "JobRef", "Receipt", "RequestFailed", "Unreachable"]

T = TypeVar("T")

RETRY_FOR_S = 30.0
MAX_REMEMBERED_RECEIPTS = 10_000  # receipts, so that an id is enough


class JobFailed(Exception):
    """The job whose result was waited for has failed; `error` has its type and message."""

    def __init__(self, error: JobError) -> None:
        super().__init__(f"{error.type}: {error.message}")
        self.error = error


class JobCancelled(Exception):
    """The job whose result was waited for was cancelled."""


class Receipt(Struct, frozen=True):
    """A job that was accepted: its id, the token that opens it, and where it can be seen."""

    id: UUID
    token: str
    links: dict[str, str]

    def __repr__(self) -> str:
        return f"<Receipt of job {self.id}>"

    @property
    def link(self) -> str:
        """The link to the job's page with its token: whoever has it can watch and cancel."""
        return self.links["page"]


class _Links(Struct):
    live: str


class _PageLinks(Struct):
    """What a job's page tells a program."""

    links: _Links


JobRef: TypeAlias = Receipt | Link | UUID | str


class Client:
    """Submits to one submitter, and watches jobs at any notifier, with one socket for each."""

    def __init__(self, url: str = LOCAL_URL, api_key: str | None = None, *, retry_for_s: float = RETRY_FOR_S) -> None:
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._retry_for_s = retry_for_s
        self._receipts: dict[UUID, Receipt] = {}
        self._connections: dict[str, NotifierConnection] = {}
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._connections.values():
            await connection.close()
        self._connections.clear()
        await self._session.close()

    async def submit(
        self,
        kind: str,
        payload: Any = None,
        *,
        delay_s: float = 0,
        max_attempts: int | None = None,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Submit a job; `payload` is anything that msgspec encodes, up to 32 KiB of JSON.

        With an `idempotency_key` of your own the same submission is the same job, whoever sends it again.
        """
        options = {"payload": payload, "delay_s": delay_s or None, "max_attempts": max_attempts, "timeout_s": timeout_s}
        body = {"kind": kind} | {name: value for name, value in options.items() if value is not None}
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key or str(uuid4())}
        body_received = await request_with_retry(
            self._session,
            "POST",
            f"{self._url}/jobs",
            retry_for_s=self._retry_for_s,
            token=self._api_key,
            headers=headers,
            body=encode(body),
        )
        receipt = _decode(body_received, Receipt)
        self._receipts[receipt.id] = receipt
        if len(self._receipts) > MAX_REMEMBERED_RECEIPTS:
            del self._receipts[next(iter(self._receipts))]
        return receipt

    async def watch(self, job: JobRef, *, token: str | None = None) -> AsyncIterator[JobSnapshot]:
        """Yield a job's snapshots until its end, the ending last; versions only rise.

        The job is a receipt, a link with its token (or without, and the token apart), or the id of a job that this
        client has submitted. Lost connections and restarts are waited out. A snapshot that is overtaken before it is
        taken is left out.
        """
        link = await self._resolve_link(job, token)
        if link.base not in self._connections:
            self._connections[link.base] = NotifierConnection(self._session, link.base)
        connection = self._connections[link.base]
        async with connection.subscribe(link.id, link.token) as watched:
            version = -1
            while True:
                snapshot = await connection.wait_for_newer(watched, version)
                yield snapshot
                version = snapshot.version
                if snapshot.status in ENDED:
                    return

    async def result(
        self,
        job: JobRef,
        timeout_s: float | None = None,
        *,
        token: str | None = None,
        type: Any = Any,  # noqa: A002
    ) -> Any:
        """Wait for a job's end and return its result, decoded to `type`.

        Raises:
            JobFailed, JobCancelled: it has ended otherwise.
            TimeoutError: it has not ended in `timeout_s` seconds.
        """
        async with asyncio.timeout(timeout_s):
            async for snapshot in self.watch(job, token=token):
                last = snapshot
        if last.status == "cancelled":
            raise JobCancelled(f"job {last.id} was cancelled")
        if last.error is not None:
            raise JobFailed(last.error)
        return msgspec.json.decode(last.result, type=type)

    async def cancel(self, job: JobRef, *, token: str | None = None) -> JobSnapshot:
        """Ask for a job's cancellation; return its snapshot, which is unchanged if it has ended already."""
        link = await self._resolve_link(job, token)
        answer = await request_with_retry(
            self._session,
            "POST",
            f"{link.base}/live/jobs/{link.id}/cancel",
            retry_for_s=self._retry_for_s,
            token=link.token,
        )
        return _decode(answer, JobSnapshot)

    async def _resolve_link(self, job: JobRef, token: str | None) -> Link:
        """Return the job's link at its notifier; a page's link is asked for it, without what stands behind the `#`."""
        if isinstance(job, str) and "/" not in job:
            job = UUID(job)
        if isinstance(job, UUID):
            if job not in self._receipts:
                raise ValueError(f"This client has not submitted job {job}: give its link")
            job = self._receipts[job]
        if isinstance(job, Receipt):
            link = Link.parse(job.links["live"], job.token)
        else:
            link = job if isinstance(job, Link) else Link.parse(job, token)
        if claimed_job(link.token) != link.id:
            raise InvalidToken("invalid_token", "The token is not for this job.", link.id)
        if link.live:
            return link
        answer = await request_with_retry(
            self._session, "GET", link.page, retry_for_s=self._retry_for_s, headers={"Accept": "application/json"}
        )
        return Link.parse(_decode(answer, _PageLinks).links.live, link.token)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return decode(body, kind)
    except msgspec.DecodeError as error:
        raise RequestFailed(None, "unexpected", f"This is not the answer of Headway: {error}") from error
