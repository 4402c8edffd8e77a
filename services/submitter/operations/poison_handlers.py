"""The handlers of the poison queue: `GET /poison` shows its jobs, and `DELETE /poison/{id}` deletes one."""

from __future__ import annotations

from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from headway.azure.poisoned_job import PoisonedJob
from headway.contracts import NULL, Json, Timestamp, truncate
from headway.labels import Labels

from ...runtime.errors import NotFound, UnprocessableContent
from ...runtime.responses import no_store_json
from .audit import log_action
from .auth import Operator, OperatorAuth
from .poison import PoisonedJobs, filtered_fields

MAX_SHOWN_PAYLOAD_BYTES = 4096
MAX_PROBLEM_LENGTH = 500


class ShownPoison(Struct, frozen=True, kw_only=True):
    """A job on the poison queue, as operators see it.

    Attributes:
        id: the job's id, or the message's id if it has no job id.
        kind, name, generation, submitted_at, labels, payload: those of its latest message, None if it cannot be read.
            Labels and payload are shown to holders of the scope `details`, and a payload up to 4 KiB.
        payload_bytes: the size of the payload.
        inserted_at: when the message came to the poison queue.
        messages: how many messages of the job are there.
        problem: why the latest message cannot be read, None if it can.
    """

    id: str
    kind: str | None = None
    name: str | None = None
    generation: int | None = None
    submitted_at: Timestamp | None = None
    inserted_at: Timestamp
    labels: Labels | None = None
    payload: Json = NULL
    payload_bytes: int | None = None
    messages: int
    problem: str | None


class PoisonHandler:
    """Handles the requests about the poison queue."""

    def __init__(self, auth: OperatorAuth, poison: PoisonedJobs) -> None:
        self._auth = auth
        self._poison = poison

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [web.get("/poison", self.show), web.delete("/poison/{id}", self.discard)]

    async def show(self, request: web.Request) -> web.Response:
        """Answer with the jobs on the poison queue, the oldest first: those that a peek returns."""
        operator = self._auth.authenticate(request)
        if request.query.get("cursor"):  # Azure peeks at the front of a queue only
            raise UnprocessableContent("Unknown cursor.", field="cursor")
        page = await self._poison.peek()
        jobs = [shown_poison(operator, job) for job in page.jobs if operator.may_operate(*filtered_fields(job))]
        return no_store_json({"jobs": jobs, "next": None, "complete": page.complete})

    async def discard(self, request: web.Request) -> web.Response:
        """Delete the poison messages of a job; raise NotFound if it has none."""
        operator, text = self._auth.authenticate(request), request.match_info["id"]
        async with self._poison.lease(lambda job: job.matches(text)) as (client, job):
            if job is None:
                raise NotFound("This job is not on the poison queue.", code="unknown")
            operator.authorize(*filtered_fields(job))
            log_action("discard", job.id, operator.name)  # first: a part of the messages may be deleted
            await client.discard(job)
        return web.Response(status=204)


def shown_poison(operator: Operator, job: PoisonedJob) -> ShownPoison:
    """Return a job as an operator sees it."""
    latest, message = job.latest, job.latest.message
    problem = None if latest.problem is None else truncate(latest.problem, MAX_PROBLEM_LENGTH)
    shown = ShownPoison(id=job.id, inserted_at=latest.received.inserted_at, messages=len(job.messages), problem=problem)
    if message is None:
        return shown
    labels, size = message.labels, len(message.payload)
    shown = replace(
        shown,
        kind=message.kind,
        name=None if labels is None else labels.name,
        generation=message.generation,
        submitted_at=message.submitted_at,
        payload_bytes=size,
    )
    if not operator.sees_details:
        return shown
    payload = message.payload if size <= MAX_SHOWN_PAYLOAD_BYTES else NULL
    return replace(shown, labels=labels, payload=payload)
