"""The asynchronous client."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Self, TypeVar, Unpack, overload

from headway.client import job_logs
from headway.client.fleet import Fleet
from headway.client.job_details import JobDetails
from headway.client.job_lists import MAX_TOKEN_TTL_S, TOKEN_TTL_S
from headway.client.job_operations import JobOperations
from headway.client.job_queries import IssuedToken, JobListPage, JobQuery, ListedJob
from headway.client.links import LOCAL_URL, Link
from headway.client.notifier_connection import NotifierConnection
from headway.client.outcomes import JobCancelled, JobFailed
from headway.client.receipts import JobRef, Receipt, TypedReceipt
from headway.client.retries import RequestFailed, Unreachable
from headway.client.service_client import decode_response
from headway.client.submission import JSON_BODY, SubmitOptions, submission_request
from headway.contracts import ENDED, JobSnapshot, decode, encode
from headway.details import BulkPreview, RedrivenJob
from headway.fleet import Kind, Worker
from headway.timestamp import RemoteClock
from headway.tokens import WATCH, InvalidToken, unverified_requires_record

__all__ = [
    "BulkPreview",
    "Client",
    "InvalidToken",
    "IssuedToken",
    "JobCancelled",
    "JobDetails",
    "JobFailed",
    "JobListPage",
    "JobQuery",
    "JobRef",
    "Kind",
    "ListedJob",
    "Receipt",
    "RedrivenJob",
    "RequestFailed",
    "SubmitOptions",
    "TypedReceipt",
    "Unreachable",
    "Worker",
]

R = TypeVar("R")

RETRY_FOR_S = 30.0


class Client(JobOperations, Fleet):
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
        super().__init__(url, api_key, retry_for_s=retry_for_s)
        self.clock = RemoteClock()  # that of the snapshots' times, once a job has been watched
        self._connections: dict[str, NotifierConnection] = {}

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
        result_type: Any = Any,
        **options: Unpack[SubmitOptions],
    ) -> Receipt:
        """Submit a job and return its receipt. For a job that you can import, prefer `Job.submit`, which checks types.

        Args:
            kind: the job's kind, which selects the handler.
            payload: the handler's payload: any value that msgspec encodes, up to 32 KiB of JSON, or a Pydantic model.
            result_type: the type to which `result` decodes the result; the receipt is a `TypedReceipt` then.
            options: `delay_s`, `max_attempts`, `timeout_s`, `name`, `owner`, `tags`, `on_end`, `idempotency_key`: see
                `SubmitOptions`.

        Raises:
            ValueError: the payload contains NaN or infinity; the message has the path, such as `payload.losses[3]`.
            TypeError: msgspec cannot encode the payload.
            RequestFailed: the submitter rejected the submission, or was still failing after `retry_for_s`.
            Unreachable: the submitter did not respond within `retry_for_s`.
        """
        headers, body = submission_request(kind, payload, **options)
        response = await self._request("POST", f"{self._url}/jobs", self._api_key, headers, body)
        return self._remember(decode_response(response, Receipt), result_type)

    async def get(self, job: JobRef, *, token: str | None = None) -> JobSnapshot:
        """Return a job's current snapshot. A job without a record is `queued`, with version 0.

        Args:
            job: a receipt, a link, or the id of a job that this client has submitted; with a token, the id of any job.
            token: the token, if `job` is a link without one or an id. A list token opens every job of its list.

        Raises:
            InvalidToken: the token is for another job, invalid or expired.
            RequestFailed: the notifier rejected the request, or was still failing after `retry_for_s`.
            Unreachable: the notifier did not respond within `retry_for_s`.
            ValueError: `job` is neither a link nor an id, or there is no token for it.
        """
        link = await self._resolve_link(job, token)
        return decode_response(await self._request("GET", f"{link.base}/live/jobs/{link.id}", link.token), JobSnapshot)

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
            if unverified_requires_record(link.token):
                await self.get(link)  # all watchers of a job share one subscription, so each token is checked here
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
        return decode_response(
            await self._request("POST", f"{link.base}/live/jobs/{link.id}/cancel", link.token), JobSnapshot
        )

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
        return decode_response(await self._request("POST", url, link.token, JSON_BODY, body), Receipt)

    async def log(
        self, job: JobRef, offset: int = 0, *, follow: bool = True, token: str | None = None
    ) -> AsyncIterator[str]:
        """Yield a job's log: what is stored, and then each piece as the job writes it, until the job has ended.

        The client reconnects after lost connections and restarts, and yields each byte once. The notifier keeps the
        newest 64 KiB, and 8 KiB of a job that has succeeded; what it no longer has is skipped.

        Args:
            job: a receipt, a link or an id.
            offset: the byte offset to begin at, for example to go on where an earlier call has stopped.
            follow: whether to wait for further pieces until the job has ended.
            token: a token with the scope `details`, or any token of a job whose kind has `log="watchers"`. Without one,
                the client gets a token with its API key, and another one when that has expired; without a key, it uses
                that of the receipt or link.

        Raises:
            RequestFailed: the token does not open the log, or a service was still failing after `retry_for_s`.
            InvalidToken, RuntimeError, Unreachable, ValueError: as for `watch`.
        """
        find_link = partial(self._details_link, job, token, MAX_TOKEN_TTL_S if follow else TOKEN_TTL_S)
        access = job_logs.LogAccess(await find_link(), find_link)
        retry_for_s = math.inf if follow else self._retry_for_s
        log = job_logs.LogReader(self._session.respond, access, offset, retry_for_s=retry_for_s)
        pieces = job_logs.follow(log, self._wait_for_end(job, access)) if follow else job_logs.read_stored(log)
        async with aclosing(pieces):
            async for text in pieces:
                yield text

    async def _wait_for_end(self, job: JobRef, access: job_logs.LogAccess) -> None:
        """Watch a job until it ends; first with its own token, which opens the job before it has a record."""
        with suppress(InvalidToken):
            if (own := self._own_link(job)) is not None:
                return await self._watch_to_end(own)
        return await access.use(self._watch_to_end)

    async def _watch_to_end(self, link: Link) -> None:
        async for _ in self.watch(link):
            pass
