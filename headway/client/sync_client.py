"""The client for code without an event loop, such as Django, Flask, scripts and shells."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, Self, TypeVar, Unpack, overload
from uuid import UUID

from msgspec import UNSET

from headway.client.async_client import RETRY_FOR_S, Client
from headway.client.client_thread import ClientThread
from headway.client.job_details import JobDetails
from headway.client.job_lists import JOB_SCOPE, LIST_SCOPE, TOKEN_TTL_S
from headway.client.job_queries import IssuedToken, JobListPage, JobQuery, ListedJob
from headway.client.links import LOCAL_URL
from headway.client.receipts import JobRef, Receipt, TypedReceipt
from headway.client.submission import SubmitOptions
from headway.contracts import JobSnapshot
from headway.details import BulkAction, BulkPreview, RedrivenJob
from headway.fleet import Kind, Worker

R = TypeVar("R")
T = TypeVar("T")


class SyncClient:
    """A blocking client with the methods, arguments, results and errors of `Client`.

    All threads may share one client, and processes may fork after its creation. The first call starts its thread;
    `close`, or the end of a `with` block, ends it.

    A call in a thread that runs an event loop works, as in Jupyter, but blocks that loop; use `Client` in async code.
    """

    def __init__(self, url: str = LOCAL_URL, api_key: str | None = None, *, retry_for_s: float = RETRY_FOR_S) -> None:
        """Configure the client; the arguments are those of `Client`."""
        self._new_client = partial(Client, url, api_key, retry_for_s=retry_for_s)
        self._threads: dict[int, ClientThread] = {}  # by process id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        threads: dict[int, ClientThread] = getattr(self, "_threads", {})  # missing if `__init__` has raised
        if thread := threads.get(os.getpid()):
            thread.stop()

    def close(self) -> None:
        """Close the connections and end the thread. Calls in other threads end with a RuntimeError.

        A later call opens the client again; it does not know the ids of earlier jobs.
        """
        if thread := self._threads.pop(os.getpid(), None):
            thread.stop()
            thread.join()

    def submit(
        self,
        kind: str,
        payload: Any = None,
        *,
        result_type: Any = Any,
        **options: Unpack[SubmitOptions],
    ) -> Receipt:
        """Submit a job and return its receipt, as `Client.submit` does."""
        return self._thread().call(lambda client: client.submit(kind, payload, result_type=result_type, **options))

    def get(self, job: JobRef, *, token: str | None = None) -> JobSnapshot:
        """Return a job's current snapshot, as `Client.get` does."""
        return self._thread().call(lambda client: client.get(job, token=token))

    def watch(self, job: JobRef, timeout_s: float | None = None, *, token: str | None = None) -> Iterator[JobSnapshot]:
        """Yield a job's snapshots until it ends, as `Client.watch` does; each step of the iterator blocks.

        Dropping the iterator ends the subscription.
        """
        return self._iterate(lambda client: client.watch(job, timeout_s, token=token))

    @overload
    def result(self, job: TypedReceipt[R], timeout_s: float | None = None, *, token: str | None = None) -> R: ...
    @overload
    def result(
        self, job: JobRef, timeout_s: float | None = None, *, token: str | None = None, type: Any = Any
    ) -> Any: ...
    def result(
        self,
        job: JobRef,
        timeout_s: float | None = None,
        *,
        token: str | None = None,
        type: Any = Any,  # noqa: A002
    ) -> Any:
        """Wait until a job ends and return its result, as `Client.result` does."""
        return self._thread().call(lambda client: client.result(job, timeout_s, token=token, type=type))

    def cancel(self, job: JobRef, *, token: str | None = None) -> JobSnapshot:
        """Request the cancellation of a job and return its snapshot, as `Client.cancel` does."""
        return self._thread().call(lambda client: client.cancel(job, token=token))

    def share(self, job: JobRef, *, token: str | None = None) -> Receipt:
        """Return a receipt whose token permits to watch the job, but not to cancel it, as `Client.share` does."""
        return self._thread().call(lambda client: client.share(job, token=token))

    def list_token(
        self,
        *,
        owner: str | None = None,
        tag: str | None = None,
        kind: str | None = None,
        scope: str = LIST_SCOPE,
        ttl_s: float = TOKEN_TTL_S,
    ) -> IssuedToken:
        """Return a token that opens all jobs that match a filter, as `Client.list_token` does."""
        return self._thread().call(
            lambda client: client.list_token(owner=owner, tag=tag, kind=kind, scope=scope, ttl_s=ttl_s)
        )

    def job_token(self, job_id: UUID | str, *, scope: str = JOB_SCOPE, ttl_s: float = TOKEN_TTL_S) -> IssuedToken:
        """Return a token for any job of the submitter, as `Client.job_token` does."""
        return self._thread().call(lambda client: client.job_token(job_id, scope=scope, ttl_s=ttl_s))

    def jobs(
        self, token: str | None = None, *, limit: int | None = None, **query: Unpack[JobQuery]
    ) -> Iterator[ListedJob]:
        """Yield the jobs that match a query, as `Client.jobs` does; each step of the iterator may block."""
        return self._iterate(lambda client: client.jobs(token, limit=limit, **query))

    def jobs_page(
        self,
        token: str | None = None,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        **query: Unpack[JobQuery],
    ) -> JobListPage:
        """Return one page of the jobs that match a query, as `Client.jobs_page` does."""
        return self._thread().call(lambda client: client.jobs_page(token, limit=limit, cursor=cursor, **query))

    def log(self, job: JobRef, offset: int = 0, *, follow: bool = True, token: str | None = None) -> Iterator[str]:
        """Yield a job's log, as `Client.log` does; each step of the iterator blocks."""
        return self._iterate(lambda client: client.log(job, offset, follow=follow, token=token))

    def details(self, job: JobRef, *, token: str | None = None) -> JobDetails:
        """Return a job's payload, true errors and steps, as `Client.details` does."""
        return self._thread().call(lambda client: client.details(job, token=token))

    def redrive(
        self, job: JobRef, *, generation: int | None = None, from_start: bool = False, token: str | None = None
    ) -> RedrivenJob:
        """Run an ended job again under the same id, as `Client.redrive` does."""
        return self._thread().call(
            lambda client: client.redrive(job, generation=generation, from_start=from_start, token=token)
        )

    def rerun(
        self,
        job: JobRef,
        payload: Any = UNSET,
        *,
        idempotency_key: str | None = None,
        result_type: Any = Any,
        token: str | None = None,
    ) -> Receipt:
        """Submit a job again as a new job, as `Client.rerun` does."""
        options = {"idempotency_key": idempotency_key, "result_type": result_type, "token": token}
        return self._thread().call(lambda client: client.rerun(job, payload, **options))

    def erase(self, job: JobRef, *, token: str | None = None) -> None:
        """Remove the result, the log and the details of an ended job, as `Client.erase` does."""
        return self._thread().call(lambda client: client.erase(job, token=token))

    def preview_bulk(self, action: BulkAction, *, token: str | None = None, **query: Unpack[JobQuery]) -> BulkPreview:
        """Return how many jobs a bulk action would act on, as `Client.preview_bulk` does."""
        return self._thread().call(lambda client: client.preview_bulk(action, token=token, **query))

    def bulk(
        self,
        action: BulkAction,
        *,
        idempotency_key: str | None = None,
        token: str | None = None,
        **query: Unpack[JobQuery],
    ) -> Receipt:
        """Act on all jobs that match a query, as `Client.bulk` does."""
        return self._thread().call(
            lambda client: client.bulk(action, idempotency_key=idempotency_key, token=token, **query)
        )

    def workers(self, token: str | None = None) -> tuple[Worker, ...]:
        """Return the workers that run, as `Client.workers` does."""
        return self._thread().call(lambda client: client.workers(token))

    def kinds(self, token: str | None = None) -> tuple[Kind, ...]:
        """Return the kinds of jobs with their numbers, as `Client.kinds` does."""
        return self._thread().call(lambda client: client.kinds(token))

    def _iterate(self, iterate: Callable[[Client], AsyncIterator[T]]) -> Iterator[T]:
        thread = self._thread()
        iterator = iterate(thread.client)  # asyncio closes it when its last reference goes

        async def next_or_none(_client: Client) -> T | None:
            return await anext(iterator, None)

        while (item := thread.call(next_or_none)) is not None:
            yield item

    def _thread(self) -> ClientThread:
        pid = os.getpid()
        return self._threads.get(pid) or self._threads.setdefault(pid, ClientThread(self._new_client()))
