"""The client for code without an event loop, such as Django, Flask, scripts and shells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any, Self, TypeVar, overload

from headway.client.async_client import RETRY_FOR_S, Client
from headway.client.client_thread import ClientThread
from headway.client.links import LOCAL_URL
from headway.client.receipts import JobRef, Receipt, TypedReceipt
from headway.contracts import JobSnapshot

R = TypeVar("R")


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
        delay_s: float = 0,
        max_attempts: int | None = None,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
        result_type: Any = Any,
    ) -> Receipt:
        """Submit a job and return its receipt, as `Client.submit` does."""
        return self._thread().call(
            lambda client: client.submit(
                kind,
                payload,
                delay_s=delay_s,
                max_attempts=max_attempts,
                timeout_s=timeout_s,
                idempotency_key=idempotency_key,
                result_type=result_type,
            )
        )

    def get(self, job: JobRef, *, token: str | None = None) -> JobSnapshot:
        """Return a job's current snapshot, as `Client.get` does."""
        return self._thread().call(lambda client: client.get(job, token=token))

    def watch(self, job: JobRef, timeout_s: float | None = None, *, token: str | None = None) -> Iterator[JobSnapshot]:
        """Yield a job's snapshots until it ends, as `Client.watch` does; each step of the iterator blocks.

        Dropping the iterator ends the subscription.
        """
        thread = self._thread()
        snapshots = thread.client.watch(job, timeout_s, token=token)  # asyncio closes it when its last reference goes

        async def next_snapshot(_client: Client) -> JobSnapshot | None:
            return await anext(snapshots, None)

        while (snapshot := thread.call(next_snapshot)) is not None:
            yield snapshot

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

    def _thread(self) -> ClientThread:
        pid = os.getpid()
        return self._threads.get(pid) or self._threads.setdefault(pid, ClientThread(self._new_client()))
