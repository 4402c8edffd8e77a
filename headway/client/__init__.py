"""A client for Python programs: submit jobs, watch them, wait for their results, cancel them.

    async with Client("https://jobs.example.com") as client:
        job = await client.submit("countdown", {"steps": 5})
        async for snapshot in client.watch(job):
            print(snapshot.status, snapshot.progress)

Requests that fail for the moment are sent again: a submission carries an `Idempotency-Key`, so the job runs once.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.client.async_client import Client, JobCancelled, JobFailed, JobRef, Receipt
    from headway.client.retries import RequestFailed, Unreachable
    from headway.tokens import InvalidToken

__all__ = ["Client", "InvalidToken", "JobCancelled", "JobFailed", "JobRef", "Receipt", "RequestFailed", "Unreachable"]


def __getattr__(name: str) -> Any:
    """Import the client when it is used: the command line needs `links` also where aiohttp is not installed."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from headway.client import async_client

    return getattr(async_client, name)
