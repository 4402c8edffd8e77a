"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self, TypeVar, overload
from uuid import UUID, uuid4

import msgspec

from headway.client.links import LOCAL_URL, JobPage, Link
from headway.client.loop_session import LoopSession
from headway.client.notifier_connection import NotifierConnection
from headway.client.outcomes import JobCancelled, JobFailed
from headway.client.receipts import JobRef, Receipt, TypedReceipt
from headway.client.retries import RequestFailed, Unreachable
from headway.contracts import ENDED, JobSnapshot, decode, encode, encode_value
from headway.timestamp import RemoteClock
from headway.tokens import WATCH, InvalidToken, unverified_job_id

__all__ = [
    "Client",
    "InvalidToken",
    "JobCancelled",
    "JobFailed",
    "JobRef",
    "Receipt",
    "RequestFailed",
    "TypedReceipt",
    "Unreachable",
]

R = TypeVar("R")
T = TypeVar("T")

RETRY_FOR_S = 30.0
JSON_BODY = {"Content-Type": "application/json"}
MAX_REMEMBERED_RECEIPTS = 10_000  # of submitted jobs, which callers may then refer to by id


class Client:
    """A client of one submitter; it watches jobs at any notifier, over one WebSocket per notifier.

    Use it as an asynchronous context manager. You may create it anywhere, for example at import; it opens with the
    `async with` block, belongs to the event loop that runs the block, and may be opened again after it.
    """

    def __init__(self, url: str = LOCAL_URL, api_key: str | None = None, *, retry_for_s: float = RETRY_FOR_S) -> None:
        """Configure the client.

        Args:
            url: the address of the submitter.
            api_key: the API key, if the submitter requires one.
            retry_for_s: for how many seconds a request that fails temporarily is repeated.
        """
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._retry_for_s = retry_for_s
        self.clock = RemoteClock()  # that of the snapshots' times, once a job has been watched
        self._receipts: dict[UUID, Receipt] = {}
        self._connections: dict[str, NotifierConnection] = {}
        self._session = LoopSession()

    async def __aenter__(self) -> Self:
        self._session.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        async with self._session.closing():
            for connection in self._connections.values():
                await connection.close()
            self._connections.clear()

    async def submit(
        self,
        kind: str,
        payload: Any = None,
        *,
        delay_s: float = 0,
        max_attempts: int | None = None,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
        result_type: Any = Any,
    ) -> Receipt:
        """Submit a job and return its receipt. For a job that you can import, prefer `Job.submit`, which checks types.

        Args:
            kind: the job's kind, which selects the handler.
            payload: the handler's payload: any value that msgspec encodes, up to 32 KiB of JSON, or a Pydantic model.
            delay_s: for how many seconds to delay the start.
            max_attempts: the number of attempts; by default the kind's own.
            timeout_s: how many seconds one attempt may take; by default the kind's own.
            idempotency_key: repeating a submission with the same key returns the same job; by default a random key.
            result_type: the type to which `result` decodes the result; the receipt is a `TypedReceipt` then.

        Raises:
            ValueError: the payload contains NaN or infinity; the message has the path, such as `payload.losses[3]`.
            TypeError: msgspec cannot encode the payload.
            RequestFailed: the submitter rejected the submission, or was still failing after `retry_for_s`.
            Unreachable: the submitter did not respond within `retry_for_s`.
        """
        payload = None if payload is None else encode_value("payload", payload)
        options = {"payload": payload, "delay_s": delay_s or None, "max_attempts": max_attempts, "timeout_s": timeout_s}
        body = encode({"kind": kind} | {name: value for name, value in options.items() if value is not None})
        headers = JSON_BODY | {"Idempotency-Key": idempotency_key or str(uuid4())}
        response = await self._request("POST", f"{self._url}/jobs", self._api_key, headers, body)
        return self._remember(_decode(response, Receipt), result_type)

    def _remember(self, receipt: Receipt, result_type: Any) -> Receipt:
        if result_type is not Any:
            receipt = TypedReceipt(receipt.id, receipt.token, receipt.links, result_type)
        self._receipts[receipt.id] = receipt
        if len(self._receipts) > MAX_REMEMBERED_RECEIPTS:
            del self._receipts[next(iter(self._receipts))]
        return receipt

    async def get(self, job: JobRef, *, token: str | None = None) -> JobSnapshot:
        """Return a job's current snapshot. A job without a record is `queued`, with version 0.

        Args:
            job: a receipt, a link, or the id of a job that this client has submitted.
            token: the token, if `job` is a link without one.

        Raises:
            InvalidToken: the token is for another job, invalid or expired.
            RequestFailed: the notifier rejected the request, or was still failing after `retry_for_s`.
            Unreachable: the notifier did not respond within `retry_for_s`.
            ValueError: `job` is neither a link nor the id of a job that this client has submitted.
        """
        link = await self._resolve_link(job, token)
        return _decode(await self._request("GET", f"{link.base}/live/jobs/{link.id}", link.token), JobSnapshot)

    async def watch(
        self, job: JobRef, timeout_s: float | None = None, *, token: str | None = None
    ) -> AsyncIterator[JobSnapshot]:
        """Yield a job's snapshots, with rising versions; the last one has the job's outcome.

        The client reconnects after lost connections and restarts, without a time limit. It skips a snapshot if a newer
        one arrives before the caller asks for it.

        Args:
            job: as for `get`.
            timeout_s: for how many seconds to watch; None watches until the job ends.
            token: as for `get`.

        Raises:
            TimeoutError: the job did not end within `timeout_s`.
            RuntimeError: the client was closed, or is used in another event loop than that of its block.
            Unreachable: the notifier's address is not valid, or the submitter did not respond within `retry_for_s`.
            InvalidToken, RequestFailed, ValueError: as for `get`.
        """
        async with asyncio.timeout(timeout_s) as timeout:
            link = await self._resolve_link(job, token)
        session = self._session.get()
        if link.base not in self._connections:
            self._connections[link.base] = NotifierConnection(session, link.base, self.clock)
        connection = self._connections[link.base]
        subscription = await connection.subscribe(link.id, link.token)
        try:
            version = -1
            while True:
                async with asyncio.timeout_at(timeout.when()):
                    snapshot = await connection.wait_for_newer(subscription, version)
                yield snapshot
                version = snapshot.version
                if snapshot.status in ENDED:
                    return
        finally:
            await connection.unsubscribe(subscription)

    @overload
    async def result(self, job: TypedReceipt[R], timeout_s: float | None = None, *, token: str | None = None) -> R: ...
    @overload
    async def result(
        self, job: JobRef, timeout_s: float | None = None, *, token: str | None = None, type: Any = Any
    ) -> Any: ...
    async def result(
        self,
        job: JobRef,
        timeout_s: float | None = None,
        *,
        token: str | None = None,
        type: Any = Any,  # noqa: A002
    ) -> Any:
        """Wait until a job ends and return its result.

        Args:
            job: as for `get`.
            timeout_s: how many seconds to wait; None waits without a limit.
            token: as for `get`.
            type: the type to decode the result to, such as `dict[str, int]` or a msgspec struct; by default the type
                in the receipt, if it has one.

        Raises:
            JobFailed: the job has failed.
            JobCancelled: the job was cancelled.
            TimeoutError: the job did not end within `timeout_s`.
            msgspec.ValidationError: the result does not match `type`.
            InvalidToken, RequestFailed, RuntimeError, Unreachable, ValueError: as for `watch`.
        """
        async with asyncio.timeout(timeout_s):
            async for snapshot in self.watch(job, token=token):
                last = snapshot
        if last.status == "cancelled":
            raise JobCancelled(f"job {last.id} was cancelled")
        if last.error is not None:
            raise JobFailed(last.error)
        default_type = job.result_type if isinstance(job, TypedReceipt) else Any
        return decode(bytes(last.result), default_type if type is Any else type)

    async def cancel(self, job: JobRef, *, token: str | None = None) -> JobSnapshot:
        """Request the cancellation of a job and return its snapshot.

        A job that has ended stays as it is. The worker of a running job cancels its handler; `watch` shows the outcome.

        Args:
            job: as for `get`.
            token: as for `get`; its scope must include `cancel`.

        Raises:
            RequestFailed: the token does not allow cancelling, or the notifier was still failing after `retry_for_s`.
            InvalidToken, Unreachable, ValueError: as for `get`.
        """
        link = await self._resolve_link(job, token)
        return _decode(await self._request("POST", f"{link.base}/live/jobs/{link.id}/cancel", link.token), JobSnapshot)

    async def share(self, job: JobRef, *, token: str | None = None) -> Receipt:
        """Return a receipt whose token permits to watch the job, but not to cancel it. It expires with the job.

        Args:
            job: as for `get`; the job must be one of this client's submitter.
            token: as for `get`.

        Raises:
            RequestFailed: the submitter rejected the request, or was still failing after `retry_for_s`.
            Unreachable: the submitter did not respond within `retry_for_s`.
            InvalidToken, ValueError: as for `get`.
        """
        link = self._find_link(job, token)
        url, body = f"{self._url}/jobs/{link.id}/token", encode({"scope": WATCH})
        return _decode(await self._request("POST", url, link.token, JSON_BODY, body), Receipt)

    async def _request(
        self,
        method: str,
        url: str,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> bytes:
        return await self._session.request(
            method, url, retry_for_s=self._retry_for_s, token=token, headers=headers, body=body
        )

    def _find_link(self, job: JobRef, token: str | None) -> Link:
        """Return the link of a job; check that its token is for this job."""
        if isinstance(job, str) and "/" not in job:
            job = UUID(job)
        if isinstance(job, UUID):
            if job not in self._receipts:
                raise ValueError(f"This client has not submitted job {job}; pass its link instead")
            job = self._receipts[job]
        if isinstance(job, Receipt):
            link = Link.parse(job.links["live"], job.token)
        else:
            link = job if isinstance(job, Link) else Link.parse(job, token)
        if unverified_job_id(link.token) != link.id:
            raise InvalidToken("invalid_token", "The token is for another job.", link.id)
        return link

    async def _resolve_link(self, job: JobRef, token: str | None) -> Link:
        """Return the link to the job at its notifier; for a link to the page, ask the submitter (without the token)."""
        link = self._find_link(job, token)
        if link.live:
            return link
        response = await self._request("GET", link.page, headers={"Accept": "application/json"})
        return Link.parse(_decode(response, JobPage).links.live, link.token)


def _decode(body: bytes, target: type[T]) -> T:
    try:
        return decode(body, target)
    except msgspec.DecodeError as error:
        raise RequestFailed(None, "unexpected", f"The server sent an unexpected response: {error}") from error
