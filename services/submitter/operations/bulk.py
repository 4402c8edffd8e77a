"""`POST /bulk`: an action on all jobs that a filter selects, which runs as a job of the kind `headway.bulk`."""

from __future__ import annotations

from aiohttp import web
from msgspec import Struct

from headway.contracts import Json, Timestamp, encode
from headway.details import BULK_KIND, BulkAction, BulkFilter, BulkRequest

from ...runtime.request import JSON, read_json_body
from ..idempotency import idempotency_key, job_id_for
from ..job_sender import JobSender
from ..submission import Submission
from .audit import log_action
from .auth import OperatorAuth
from .job_records import JobRecords, SelectedJob
from .selection import freeze_selection

MAX_BODY_BYTES = 8192
PAGE = 200
MAX_COUNTED = 10_000  # jobs; more are not counted
MAX_EXAMPLES = 10
NAMES: dict[BulkAction, str] = {"redrive": "Redrive jobs", "cancel": "Cancel jobs", "rerun": "Run jobs again"}


class BulkBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body; with `dry_run`, the answer is what would be acted on."""

    action: BulkAction
    filter: BulkFilter = BulkFilter()
    dry_run: bool = False


class Selection(Struct, frozen=True):
    """The answer to a dry run: how many jobs the filter selects at least, whether these are all, and the newest."""

    count: int
    complete: bool
    examples: list[dict[str, object]]


class BulkHandler:
    """Handles actions on many jobs."""

    def __init__(self, auth: OperatorAuth, records: JobRecords, sender: JobSender) -> None:
        self._auth = auth
        self._records = records
        self._sender = sender

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [web.post("/bulk", self.post)]

    async def post(self, request: web.Request) -> web.Response:
        """Answer a dry run with what the filter selects; otherwise submit the action, and answer with its receipt.

        Raises:
            HTTPProblem: the operator, the body or the idempotency key is not accepted.
            ServiceUnavailable: the notifier or the queue is unavailable.
        """
        operator = self._auth.authenticate(request)
        key = idempotency_key(request)
        body = await read_json_body(request, BulkBody, MAX_BODY_BYTES)
        selected = freeze_selection(body.action, body.filter, operator, Timestamp.now())
        selection = await self._count(body.action, selected, with_details=operator.sees_details)
        if body.dry_run:
            return web.Response(body=encode(selection), content_type=JSON, headers={"Cache-Control": "no-store"})
        bulk = BulkRequest(
            action=body.action,
            filter=selected,
            total=selection.count if selection.complete else None,
            by=operator.name,
        )
        # The id of a repeated request is computed from what the operator may do and has sent: the frozen filter has
        # another time.
        asked = encode([operator.filter, body])
        requested = Submission(kind=BULK_KIND, payload=Json(asked), name=NAMES[body.action])
        job_id = job_id_for(requested, operator.name, key)
        submission = Submission(kind=BULK_KIND, payload=Json(encode(bulk)), name=NAMES[body.action])
        accepted = await self._sender.send(submission, job_id, request)
        log_action("bulk", job_id, operator.name, bulk_action=body.action)
        return self._sender.receipt(accepted)

    async def _count(self, action: BulkAction, selected: BulkFilter, *, with_details: bool) -> Selection:
        parameters = selected.parameters()
        count, complete, position = 0, True, list[tuple[str, str]]()
        examples: list[dict[str, object]] = []
        while True:
            page = await self._records.page([*parameters, ("limit", str(PAGE)), *position])
            jobs = [one for one in page.jobs if selected.selects_kind(action, one.job.kind)]
            count, complete = count + len(jobs), complete and page.complete
            examples += [_example(one, with_details=with_details) for one in jobs[: MAX_EXAMPLES - len(examples)]]
            if page.next is None or count >= MAX_COUNTED:
                return Selection(count, complete and page.next is None, examples)
            position = [("cursor", page.next)]


def _example(selected: SelectedJob, *, with_details: bool) -> dict[str, object]:
    job = selected.job
    error_type = selected.error_type if with_details else None
    return {"id": job.id, "kind": job.kind, "name": job.name, "status": job.status, "error_type": error_type}
