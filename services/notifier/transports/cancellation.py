"""Cancellation, which every transport requests in the same way."""

from __future__ import annotations

from headway.tokens import Grant

from ..records.store import JobStore
from .auth import TokenAuth
from .refusals import RejectedToken


async def cancel_job(store: JobStore, auth: TokenAuth, grant: Grant) -> bytes | RejectedToken:
    """Cancel a job and return its snapshot, or the reason why the token does not open its record.

    Raises:
        RedisError, OSError: Redis is unavailable. The job may have been cancelled.
    """
    record = None
    if grant.filter is not None:
        (record,) = await store.read([str(grant.job_id)])
        if (rejected := auth.check_record(grant, record)) is not None:
            return rejected
    snapshot = await store.cancel(grant, record)  # which checks the labels again, in the same step
    if snapshot is None:
        return RejectedToken("unknown", "This job has no record.", str(grant.job_id))
    return snapshot
