"""`POST /bulk`: an action on all jobs that a filter selects, which runs as a job of the kind `headway.bulk`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import UUID

from aiohttp import web
from msgspec import Struct, to_builtins

from headway.contracts import Json, Timestamp, decode, encode
from headway.details import BULK_KIND, BulkAction, BulkExample, BulkFilter, BulkPreview, BulkRequest

from ...runtime.request import read_json_body
from ...runtime.responses import no_store_json
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
MAX_COUNT_S = 3.0  # for counting; a rare type of error among many jobs takes longer
MAX_EXAMPLES = 10
REPEATED_WITHIN_S = 10  # a request like one before it, without an idempotency key, is that one: a double click
NAMES: dict[BulkAction, str] = {"redrive": "Redrive jobs", "cancel": "Cancel jobs", "rerun": "Run jobs again"}


class BulkBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body; with `dry_run`, the answer is what would be acted on."""

    action: BulkAction
    filter: BulkFilter = BulkFilter()
    dry_run: bool = False


class _Action(Struct):
    """What a repeated request needs of the job of an action."""

    submitted_at: Timestamp


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
            return no_store_json(selection)
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
        job_id = await self._job_id(requested, operator.name, key)
        submission = Submission(kind=BULK_KIND, payload=Json(encode(bulk)), name=NAMES[body.action])
        accepted = await self._sender.send(submission, job_id, request)
        log_action(
            "bulk",
            job_id,
            operator.name,
            bulk_action=body.action,
            filter=to_builtins(selected, enc_hook=str),
            total=bulk.total,
        )
        return self._sender.receipt(accepted)

    async def _job_id(self, requested: Submission, caller: str, key: str | None) -> UUID:
        """Return the id of an action; without a key, that of the same request a moment ago, if there was one.

        The id has the number of the interval of time, so that a request of the last seconds has the same id, or that of
        the interval before.
        """
        if key is not None:
            return job_id_for(requested, caller, key)
        now = Timestamp.now()
        interval = now // (1000 * REPEATED_WITHIN_S)
        # Keys of clients are printable.
        before, current = (job_id_for(requested, caller, f"\0{number}") for number in (interval - 1, interval))
        kept = await self._records.read(before)
        is_repeated = kept is not None and decode(bytes(kept.snapshot), _Action).submitted_at > now.after(
            -REPEATED_WITHIN_S
        )
        return before if is_repeated else current

    async def _count(self, action: BulkAction, selected: BulkFilter, *, with_details: bool) -> BulkPreview:
        """Count the jobs that a filter selects, as far as that does not take long."""
        parameters, position = selected.parameters(), list[tuple[str, str]]()
        count, complete, examples = 0, True, list[BulkExample]()
        with suppress(TimeoutError):
            async with asyncio.timeout(MAX_COUNT_S):
                while count < MAX_COUNTED:
                    page = await self._records.page([*parameters, ("limit", str(PAGE)), *position])
                    jobs = [one for one in page.jobs if selected.selects_kind(action, one.job.kind)]
                    count, complete = count + len(jobs), complete and page.complete
                    missing = MAX_EXAMPLES - len(examples)
                    examples += [_example(one, with_details=with_details) for one in jobs[:missing]]
                    if page.next is None:
                        return BulkPreview(count, complete, tuple(examples))
                    position = [("cursor", page.next)]
        return BulkPreview(count, complete=False, examples=tuple(examples))


def _example(selected: SelectedJob, *, with_details: bool) -> BulkExample:
    job = selected.job
    error_type = selected.error_type if with_details else None
    return BulkExample(id=job.id, kind=job.kind, name=job.name, status=job.status, error_type=error_type)
