"""Cancellation, which every transport requests in the same way."""

from __future__ import annotations

from redis.exceptions import RedisError

from headway.tokens import CANCEL, Grant

from ..records.store import JobStore
from .auth import TokenAuth
from .base import ClientConnection
from .refusals import UNAVAILABLE, RejectedToken
from .registry import ConnectionRegistry

NOT_WATCHED = "Watch the job first: its token determines whether you may cancel it."


async def cancel_job(store: JobStore, auth: TokenAuth, grant: Grant, origin: str | None) -> bytes | RejectedToken:
    """Cancel a job and return its snapshot, or the reason why the token does not open its record.

    Raises:
        RedisError, OSError: Redis is unavailable. The job may have been cancelled.
    """
    record = None
    if grant.filter is not None:
        (record,) = await store.read([str(grant.job_id)])
        if (rejected := auth.check_record(grant, record, origin)) is not None:
            return rejected
    snapshot = await store.cancel(grant, record)  # which checks the labels again, in the same step
    if snapshot is None:
        return RejectedToken("unknown", "This job has no record.", str(grant.job_id))
    return snapshot


async def cancel_watched(
    connection: ClientConnection, job_id: str, registry: ConnectionRegistry, store: JobStore, auth: TokenAuth
) -> RejectedToken | None:
    """Cancel a job that a connection watches; return the reason if that is refused."""
    subscription = connection.subscriptions.get(job_id)
    if subscription is None:
        return RejectedToken("not_watched", NOT_WATCHED, job_id)
    if (rejected := auth.recheck(subscription.grant, subscription.key_id, connection.origin)) is not None:
        registry.unsubscribe(connection, job_id)
        return rejected
    if CANCEL not in subscription.grant.scope:
        auth.refusals.add_token("forbidden", job_id, connection.origin)
        return RejectedToken("forbidden", "The token does not have the scope `cancel`.", job_id)
    try:
        result = await cancel_job(store, auth, subscription.grant, connection.origin)
    except (RedisError, OSError):
        return RejectedToken("unavailable", UNAVAILABLE, job_id)
    return result if isinstance(result, RejectedToken) else None
