"""`POST /jobs`: from a form or from JSON to a message on the queue."""

from __future__ import annotations

import structlog
from aiohttp import web
from azure.core.exceptions import AzureError

from headway.contracts import encode, encode_message
from headway.tokens import TokenSigner
from services.azure_queue import JobQueue
from services.problems import (
    Forbidden,
    Unauthorized,
    Unavailable,
    UnsupportedType,
    bearer,
    check_origin,
    known_key,
    read_body,
)
from services.settings import WatchedFile
from services.submitter import metrics
from services.submitter.settings import SubmitterSettings
from services.submitter.submission import BODY_BYTES, Accepted, accept, read_form, read_json

log: structlog.stdlib.BoundLogger = structlog.get_logger()

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
RETRY_AFTER_S = 2


class Api:
    """Takes submissions."""

    def __init__(self, settings: SubmitterSettings, queue: JobQueue, signer: WatchedFile[TokenSigner],
                 keys: WatchedFile[tuple[str, ...]] | None) -> None:  # fmt: skip
        self._settings = settings
        self._queue = queue
        self._signer = signer
        self._keys = keys

    def routes(self) -> list[web.RouteDef]:
        """Return the API's routes."""
        return [web.post("/jobs", self.submit)]

    async def submit(self, request: web.Request) -> web.Response:
        """Take one submission: a form is sent on to the job's page, JSON is answered 202 with links and a token."""
        form = request.content_type == FORM
        self._authorize(request, form=form)
        if not form and request.content_type != JSON:
            raise UnsupportedType(f"Send {JSON} or {FORM}.")
        body = await read_body(request, BODY_BYTES)
        accepted = accept(read_form(body) if form else read_json(body), self._settings.job_ttl_s)
        await self._enqueue(accepted)
        token = self._signer.value.sign(accepted.granted)
        path = f"/jobs/{accepted.message.id}"
        if form:
            return web.Response(status=303, headers={"Location": f"{path}#{token}", "Cache-Control": "no-store"})
        receipt = {"id": accepted.message.id, "status": "queued", "token": token, "links": self._links(path, token)}
        headers = {"Location": path, "Cache-Control": "no-store"}
        return web.Response(status=202, body=encode(receipt), content_type=JSON, headers=headers)

    def _authorize(self, request: web.Request, *, form: bool) -> None:
        check_origin(request, self._settings.origins)
        if form and "Origin" not in request.headers:
            raise Forbidden("A form must name its Origin.")
        if self._keys is not None and not known_key(bearer(request), self._keys.value):
            raise Unauthorized("Send one of the API keys: Authorization: Bearer <key>.")

    async def _enqueue(self, accepted: Accepted) -> None:
        message = accepted.message
        try:
            await self._queue.send(encode_message(message), delay_s=accepted.delay_s)
        except AzureError as error:
            metrics.SUBMITTED.labels("error").inc()
            log.warning("queue_unavailable", error=type(error).__name__)
            raise Unavailable("The queue is away; try again.", retry_after_s=RETRY_AFTER_S) from error
        metrics.SUBMITTED.labels("accepted").inc()
        log.info("job_submitted", job_id=str(message.id), kind=message.kind)

    def _links(self, path: str, token: str) -> dict[str, str]:
        live_url = self._settings.live_url.rstrip("/")
        live = f"{live_url}/live{path}"
        return {
            "page": f"{self._settings.submitter_url.rstrip('/')}{path}#{token}",
            "live": live,
            "events": f"{live}/events",
            "socket": f"ws{live_url.removeprefix('http')}/live",
            "cancel": f"{live}/cancel",
        }
