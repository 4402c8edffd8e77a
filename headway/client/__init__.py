"""The Python client: submit jobs, watch their progress, wait for their results, and cancel them.

    async with Client("https://jobs.example.com") as client:
        job = await client.submit("countdown", {"steps": 5})
        async for snapshot in client.watch(job):
            print(snapshot.status, snapshot.progress)

`SyncClient` has the same methods for code without an event loop. Both repeat requests that fail temporarily. A
submission carries an `Idempotency-Key`, so it creates one job.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.client.async_client import Client, JobCancelled, JobFailed
    from headway.client.job_details import JobDetails
    from headway.client.job_queries import IssuedToken, JobListPage, JobQuery, ListedJob
    from headway.client.receipts import JobRef, Receipt, TypedReceipt
    from headway.client.retries import RequestFailed, Unreachable
    from headway.client.submission import SubmitOptions
    from headway.client.sync_client import SyncClient
    from headway.details import BulkPreview, RedrivenJob
    from headway.fleet import Kind, Worker
    from headway.tokens import InvalidToken

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
    "SyncClient",
    "TypedReceipt",
    "Unreachable",
    "Worker",
]


def __getattr__(name: str) -> Any:
    """Import the clients on first use: `headway.client.links` must work without aiohttp."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from headway.client import async_client, sync_client

    return getattr(sync_client if name == "SyncClient" else async_client, name)
