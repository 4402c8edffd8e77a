"""The handler of submissions: `POST /submissions` for jobs whose messages are on the queue."""

from __future__ import annotations

from typing import Annotated

import structlog
from aiohttp import web
from msgspec import Meta
from redis.exceptions import RedisError

from headway.contracts import MAX_REPORTS_BYTES, MAX_REPORTS_PER_REQUEST, SubmittedJob, encode
from headway.labels import MAX_LABELS_BYTES

from ...runtime.auth import require_report_key
from ...runtime.errors import ServiceUnavailable, UnprocessableContent
from ...runtime.request import bearer_token, decode_body, read_body, read_query
from ...runtime.settings import ReloadingFile
from .. import metrics
from ..records.store import JobStore
from ..wakeups import QueueQuery, WakeupHandler

log: structlog.stdlib.BoundLogger = structlog.get_logger()

SUBMISSIONS = metrics.SUBMISSIONS.labels()
SubmissionList = Annotated[list[SubmittedJob], Meta(min_length=1, max_length=MAX_REPORTS_PER_REQUEST)]
RETRY_AFTER_S = 1


class SubmissionHandler:
    """Creates the records of submitted jobs, and wakes a worker for each that may start now."""

    def __init__(self, store: JobStore, wakeups: WakeupHandler, keys: ReloadingFile[tuple[str, ...]]) -> None:
        self._store = store
        self._wakeups = wakeups
        self._keys = keys

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the internal listener."""
        return [web.post("/submissions", self.post)]

    async def post(self, request: web.Request) -> web.Response:
        """Create the records that do not exist yet, then wake workers of the queue that the query names."""
        require_report_key(bearer_token(request), self._keys.value)
        queue = read_query(request, QueueQuery).queue
        jobs = decode_submissions(await read_body(request, MAX_REPORTS_BYTES))
        now = self._store.clock.now()
        try:
            await self._store.apply_submissions(jobs)
        except (RedisError, OSError) as error:
            log.warning("submissions_not_confirmed", error=type(error).__name__, count=len(jobs))
            message = "The job records are unavailable; lists show the jobs when they start."
            raise ServiceUnavailable(message, retry_after_s=RETRY_AFTER_S) from error
        finally:  # also after an error: another node of Redis may publish it
            await self._wakeups.wake(queue, sum(job.due_at is None or job.due_at <= now for job in jobs))
        SUBMISSIONS.inc(len(jobs))
        return web.Response(status=204)


def decode_submissions(body: bytes) -> list[SubmittedJob]:
    """Decode a list of submitted jobs.

    Raises:
        HTTPProblem: the body is not valid; the error names the element and the field.
    """
    jobs: list[SubmittedJob] = decode_body(body, SubmissionList)
    for index, job in enumerate(jobs):
        if job.labels is not None and len(encode(job.labels)) > MAX_LABELS_BYTES:
            message = f"Expected labels of at most {MAX_LABELS_BYTES} bytes."
            raise UnprocessableContent(message, field=f"[{index}].labels")
    return jobs
