"""Sends accepted jobs: puts their messages on the queue, posts them to the notifier, and creates their receipts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
from aiohttp import web
from azure.core.exceptions import AzureError
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from headway.azure.job_queue import JobQueue
from headway.message_codec import encode_message
from headway.tokens import TokenSigner
from headway.trace_context import TraceContext, trace_fields

from ..runtime.errors import ServiceUnavailable
from ..runtime.metrics import observed_duration
from ..runtime.responses import NO_STORE, no_store_json
from ..runtime.settings import ReloadingFile
from . import metrics
from .links import Links
from .request_spans import trace_context
from .settings import SubmitterSettings
from .submission import AcceptedJob, Submission, accept_submission
from .submissions import SubmissionClient

if TYPE_CHECKING:
    from ..runtime.tracer import Tracer

log: structlog.stdlib.BoundLogger = structlog.get_logger()

RETRY_AFTER_S = 2  # while the queue is unavailable
SEND_TIMEOUT_S = 20.0  # with all repetitions: one request to the queue may last 15 s, for example on a dead connection


class JobSender:
    """Sends jobs to the workers, through the queue."""

    def __init__(
        self,
        settings: SubmitterSettings,
        links: Links,
        queue: JobQueue,
        signer: ReloadingFile[TokenSigner],
        submissions: SubmissionClient,
        tracer: Tracer | None = None,
    ) -> None:
        self._job_ttl_s = settings.job_ttl_s
        self._queue_name = settings.queue_name
        self._links = links
        self._queue = queue
        self._signer = signer
        self._submissions = submissions
        self._tracer = tracer

    async def send(
        self,
        submission: Submission,
        job_id: UUID,
        request: web.Request,
        by: str | UnsetType = UNSET,
        link: TraceContext | None = None,
    ) -> AcceptedJob:
        """Put a job on the queue, in the trace of the request.

        Args:
            submission: the job.
            job_id: its id.
            request: the request.
            by: the operator who runs a job again with it.
            link: the trace of that job, to which the span of the new one is linked.

        Raises:
            UnprocessableContent: the job would expire before its delay ends.
            ServiceUnavailable: the queue is unavailable; it may or may not have the message.
        """
        if self._tracer is None:
            return await self._send(submission, job_id, by, trace_context(request))
        attributes = {"headway.job.id": str(job_id), "headway.job.kind": submission.kind}
        with self._tracer.producer_span(self._queue_name, attributes, link) as span:
            try:
                return await self._send(submission, job_id, by, span.trace)
            except ServiceUnavailable as error:
                span.fail(error.code)
                raise

    async def _send(
        self, submission: Submission, job_id: UUID, by: str | UnsetType, trace: TraceContext | None
    ) -> AcceptedJob:
        accepted = accept_submission(submission, self._job_ttl_s, job_id, trace)
        message = accepted.message
        try:
            with observed_duration(metrics.ENQUEUE_DURATION, trace):
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await self._queue.send(encode_message(message), delay_s=accepted.delay_s)
        except (AzureError, TimeoutError) as error:
            metrics.SUBMISSIONS.labels("error").inc()
            raise queue_unavailable(error) from error
        self._submissions.notify(replace(accepted.submitted, by=by), accepted.delay_s)
        metrics.SUBMISSIONS.labels("accepted").inc()
        log.info("job_submitted", job_id=str(message.id), kind=message.kind, **trace_fields(trace))
        return accepted

    def receipt(self, accepted: AcceptedJob) -> web.Response:
        """Return the response with a job's receipt: its id, its token and its links."""
        job_id, token = accepted.message.id, self._signer.value.sign(accepted.grant)
        receipt = {"id": job_id, "status": "queued", "token": token, "links": self._links.for_job(job_id, token)}
        return no_store_json(receipt, status=202, headers={"Location": _path(job_id)})

    def redirect(self, accepted: AcceptedJob) -> web.Response:
        """Return the response that redirects a form to the page of its job, with the token in the fragment."""
        token = self._signer.value.sign(accepted.grant)
        return web.Response(status=303, headers={"Location": f"{_path(accepted.message.id)}#{token}", **NO_STORE})


def queue_unavailable(error: Exception) -> ServiceUnavailable:
    """Log an error of the queue, and return that of the request."""
    log.warning("queue_unavailable", error=type(error).__name__)
    return ServiceUnavailable("The queue is unavailable; try again.", retry_after_s=RETRY_AFTER_S)


def _path(job_id: UUID) -> str:
    return f"/jobs/{job_id}"
