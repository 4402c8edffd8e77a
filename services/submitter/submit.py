"""The handlers of `POST /jobs`, which puts a job on the queue: for callers, and for the workers."""

from __future__ import annotations

from aiohttp import web

from headway.grants import OPERATE
from headway.labels import RESERVED_PREFIX

from ..runtime.auth import require_report_key
from ..runtime.errors import Forbidden, UnprocessableContent, UnsupportedMediaType
from ..runtime.request import JSON, bearer_token, read_body, read_json_body
from ..runtime.settings import ReloadingFile
from . import metrics
from .api_keys import Permission
from .caller_auth import Caller, TooManyRequests
from .idempotency import idempotency_key, job_id_for
from .job_sender import JobSender
from .sessions import SessionAuth
from .submission import (
    MAX_BODY_BYTES,
    InternalSubmission,
    Submission,
    check_limits,
    submission_from_form,
    submission_from_json,
)

FORM = "application/x-www-form-urlencoded"


class SubmitHandler:
    """Handles the submissions of callers; the body is JSON or a form."""

    def __init__(self, session_auth: SessionAuth, sender: JobSender) -> None:
        self._session_auth = session_auth
        self._sender = sender

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
        _check_kind(submission.kind)
        if Permission.LABEL not in caller.permissions:
            _check_labels(submission)
        accepted = await self._sender.send(submission, job_id_for(submission, caller.id, key), request)
        return self._sender.redirect(accepted) if is_form else self._sender.receipt(accepted)

    def _authenticate(self, request: web.Request) -> Caller:
        try:
            return self._session_auth.authenticate(request, Permission.SUBMIT, scope=OPERATE).caller
        except TooManyRequests:
            metrics.SUBMISSIONS.labels("limited").inc()
            raise


class InternalSubmitHandler:
    """Handles the submissions of workers, which choose the id: a repeated submission is the same job.

    Args:
        keys: the report keys; without them, every submission is refused.
        sender: sends the jobs.
    """

    def __init__(self, keys: ReloadingFile[tuple[str, ...]] | None, sender: JobSender) -> None:
        self._keys = keys
        self._sender = sender

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the internal listener."""
        return [web.post("/jobs", self.submit)]

    async def submit(self, request: web.Request) -> web.Response:
        """Handle a submission: answer with 202, links and a token.

        Raises:
            Unauthorized: the request has none of the report keys.
            HTTPProblem: the body is not accepted.
            ServiceUnavailable: the queue is unavailable; it may or may not have the message.
        """
        require_report_key(bearer_token(request), () if self._keys is None else self._keys.value)
        submission = check_limits(await read_json_body(request, InternalSubmission, MAX_BODY_BYTES))
        return self._sender.receipt(await self._sender.send(submission, submission.id, request))


def _check_kind(kind: str) -> None:
    """Raise UnprocessableContent, which names the field, if only Headway itself submits jobs of a kind."""
    if kind.startswith(RESERVED_PREFIX):
        raise UnprocessableContent(f"Kinds that begin with {RESERVED_PREFIX!r} are reserved.", field="kind")


def _check_labels(submission: Submission) -> None:
    """Raise Forbidden, which names the field, if a submission has labels that decide which tokens open the job."""
    for field, value in (("owner", submission.owner), ("tags", submission.tags)):
        if value:
            raise Forbidden(f"A job with `{field}` needs an API key.", field=field)
