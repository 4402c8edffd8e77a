"""Reads a job's log for the bearer of a token."""

from __future__ import annotations

from headway.grants import DETAILS
from headway.tokens import Grant

from ...runtime.errors import Forbidden
from ..logs.store import LogStore, StoredLog
from .auth import TokenAuth, unavailable_without_store
from .base import LOG_FORBIDDEN

LOG_LINGER_S = 3.0  # how long after the end of a job clients wait for the rest, which workers send within a second
EMPTY = StoredLog(0, 0, 1, True, b"")  # of a job that has logged nothing


async def read_log(logs: LogStore, auth: TokenAuth, grant: Grant, offset: int, origin: str | None) -> StoredLog:
    """Return a job's log from an offset; that of a job that has logged nothing is empty.

    Raises:
        Forbidden: the token does not open the log.
        ServiceUnavailable: Redis is unavailable.
    """
    with unavailable_without_store():
        (log,) = await logs.read([(str(grant.job_id), offset)])
    if log is None:
        return EMPTY
    if not log.for_watchers and DETAILS not in grant.scope:
        auth.refusals.add_token("forbidden", str(grant.job_id), origin)
        raise Forbidden(LOG_FORBIDDEN)
    return log
