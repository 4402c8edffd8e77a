"""The handler of `POST /jobs`, which puts a job on the queue. The body is JSON or a form."""

from __future__ import annotations

import re

import structlog
from aiohttp import web
from azure.core.exceptions import AzureError

from headway.azure.job_queue import JobQueue
from headway.contracts import encode
from headway.message_codec import encode_message
from headway.tokens import TokenSigner

from ..runtime.errors import Forbidden, ServiceUnavailable, UnsupportedMediaType
from ..runtime.request import JSON, read_body
from ..runtime.settings import ReloadingFile
from . import metrics
from .api_keys import Permission
from .caller_auth import Caller, CallerAuth, TooManyRequests
from .idempotency import idempotency_key, job_id_for
from .links import Links
from .settings import SubmitterSettings
from .submission import (
    MAX_BODY_BYTES,
    AcceptedJob,
    Submission,
    accept_submission,
    submission_from_form,
    submission_from_json,
)
from .submissions import SubmissionClient

log: structlog.stdlib.BoundLogger = structlog.get_logger()

FORM = "application/x-www-form-urlencoded"
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
RETRY_AFTER_S = 2  # while the queue is unavailable


class SubmitHandler:
    """Handles submissions: authenticates the caller, validates the body, and sends the queue message."""

    def __init__(
        self,
        settings: SubmitterSettings,
        links: Links,
        queue: JobQueue,
        signer: ReloadingFile[TokenSigner],
        caller_auth: CallerAuth,
        submissions: SubmissionClient,
    ) -> None:
        self._job_ttl_s = settings.job_ttl_s
        self._links = links
        self._queue = queue
        self._signer = signer
        self._caller_auth = caller_auth
        self._submissions = submissions

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [web.post("/jobs", self.submit)]

    async def submit(self, request: web.Request) -> web.Response:
        """Handle a submission: redirect a form to the job's page; answer JSON with 202, links and a token.

        Raises:
            HTTPProblem: the caller, the body or the idempotency key is not accepted.
            ServiceUnavailable: the queue is unavailable; it may or may not have the message.
        """
        is_form = request.content_type == FORM
        if is_form and "Origin" not in request.headers:  # browsers send it, and CorsPolicy checks it only if it is sent
            raise Forbidden("A form must be sent with an Origin header.", code="origin_not_allowed")
        caller = self._authenticate(request)
        if not is_form and request.content_type != JSON:
            raise UnsupportedMediaType(f"Send {JSON} or {FORM}.")
        key = idempotency_key(request)
        body = await read_body(request, MAX_BODY_BYTES)
        submission = submission_from_form(body) if is_form else submission_from_json(body)
        if Permission.LABEL not in caller.permissions:
            _check_labels(submission)
        job_id = job_id_for(submission, caller.id, key)
        accepted = accept_submission(submission, self._job_ttl_s, job_id, trace_context(request))
        await self._enqueue(accepted)
        return self._respond(accepted, is_form=is_form)

    def _authenticate(self, request: web.Request) -> Caller:
        try:
            return self._caller_auth.authenticate(request, Permission.SUBMIT)
        except TooManyRequests:
            metrics.SUBMISSIONS.labels("limited").inc()
            raise

    async def _enqueue(self, accepted: AcceptedJob) -> None:
        message = accepted.message
        try:
            with metrics.ENQUEUE_DURATION.time():
                await self._queue.send(encode_message(message), delay_s=accepted.delay_s)
        except AzureError as error:
            metrics.SUBMISSIONS.labels("error").inc()
            log.warning("queue_unavailable", error=type(error).__name__)
            raise ServiceUnavailable("The queue is unavailable; try again.", retry_after_s=RETRY_AFTER_S) from error
        self._submissions.notify(accepted.submitted, accepted.delay_s)
        metrics.SUBMISSIONS.labels("accepted").inc()
        log.info("job_submitted", job_id=str(message.id), kind=message.kind)

    def _respond(self, accepted: AcceptedJob, *, is_form: bool) -> web.Response:
        job_id = accepted.message.id
        token = self._signer.value.sign(accepted.grant)
        path = f"/jobs/{job_id}"
        if is_form:
            return web.Response(status=303, headers={"Location": f"{path}#{token}", "Cache-Control": "no-store"})
        receipt = {"id": job_id, "status": "queued", "token": token, "links": self._links.for_job(job_id, token)}
        headers = {"Location": path, "Cache-Control": "no-store"}
        return web.Response(status=202, body=encode(receipt), content_type=JSON, headers=headers)


def trace_context(request: web.Request) -> str | None:
    """Return the trace context of a request (https://www.w3.org/TR/trace-context/), or None if it has no valid one."""
    header = request.headers.get("traceparent", "")
    return header if TRACEPARENT.fullmatch(header) else None


def _check_labels(submission: Submission) -> None:
    """Raise Forbidden, which names the field, if a submission has labels that decide which tokens open the job."""
    for field, value in (("owner", submission.owner), ("tags", submission.tags)):
        if value:
            raise Forbidden(f"A job with `{field}` needs an API key.", field=field)
