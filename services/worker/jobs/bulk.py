"""The `headway.bulk` job: it redrives, cancels or reruns all jobs that a filter selects, and shows a bar.

Nothing happens twice, whatever is repeated. A redrive and a cancellation name the generation that the job has in the
list, so a job that has changed since is skipped. A rerun has an id that is computed from this job's id. Each page is
saved before the action, so that an attempt that follows a crash repeats one page, and misses none. The jobs of that
page that were redriven or cancelled before the crash count as skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid5

import aiohttp
from msgspec import Struct, convert

from headway import Fail, JobContext, Retry, job
from headway.client.retries import RETRYABLE_STATUSES, UNEXPECTED, RequestFailed, Unreachable, request_with_retry
from headway.contracts import Natural, Timestamp, decode, encode
from headway.details import BULK_KIND, BulkAction, BulkFilter, BulkRequest

from ...runtime.request import JSON
from ...runtime.settings import ReloadingFile, environment, load, read_keys
from ..settings import WorkerSettings

PAGE = 50  # jobs
MAX_PER_S = 50.0  # jobs
CONCURRENCY = 5
RETRY_FOR_S = 30.0  # while a service is unavailable, before the attempt ends
RETRY_AFTER_S = 10.0
UNAVAILABLE = "A service of Headway is unavailable."
INVALID = (HTTPStatus.UNPROCESSABLE_ENTITY, "invalid")  # the status and the code of an invalid filter
REFUSED_KEY = "A service of Headway does not accept the report key."
INCOMPLETE = "; the list may lack jobs, so repeat this later"
DONE: dict[BulkAction, str] = {"redrive": "redriven", "cancel": "cancelled", "rerun": "submitted again"}
SKIPPED = frozenset({"changed", "ended", "not_ended", "unknown", "payload_not_kept"})  # codes of answers


class SelectedJob(Struct, frozen=True, array_like=True):
    """A job, as it was in the list."""

    id: UUID
    generation: Natural


class BulkState(Struct, kw_only=True, omit_defaults=True):
    """The checkpoint: the page in progress, the cursor of the page after it, and how many jobs have which outcome.

    Attributes:
        complete: whether all pages up to this one had every job.
    """

    page: list[SelectedJob] = []
    next: str | None = None
    complete: bool = True
    done: int = 0
    skipped: dict[str, int] = {}
    failed: dict[str, int] = {}

    @property
    def count(self) -> int:
        """How many jobs have an outcome."""
        return self.done + sum(self.skipped.values()) + sum(self.failed.values())


class BulkResult(Struct, frozen=True):
    """How many jobs the action was done with, and how many were skipped and have failed, by the code of the answer.

    Attributes:
        complete: whether these are all jobs that the filter selects; the notifier's list may have lacked some.
    """

    done: int
    skipped: dict[str, int]
    failed: dict[str, int]
    complete: bool


class _Snapshot(Struct, frozen=True):
    id: UUID
    generation: Natural = 0
    kind: str = ""


class _ListedJob(Struct, frozen=True):
    job: _Snapshot


class _Page(Struct, frozen=True):
    jobs: list[_ListedJob]
    next: str | None
    complete: bool


@job(BULK_KIND, max_attempts=20, backoff_cap_s=60)
async def bulk(ctx: JobContext, payload: BulkRequest) -> BulkResult:
    """Act on each job that the filter selects, newest first; return how many jobs have which outcome.

    Raises:
        Fail: a setting is missing, or the notifier refuses the filter.
        Retry: a service is unavailable, or does not accept the report key.
    """
    settings = load(WorkerSettings, environment())
    if settings.submitter_internal_url is None:
        raise Fail("Set SUBMITTER_INTERNAL_URL for the worker: actions on many jobs need it.")
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        keys = ReloadingFile(settings.report_key_file, read_keys)
        services = InternalServices(
            session, settings.notifier_internal_url, settings.submitter_internal_url, keys, payload.by
        )
        return await BulkRun(ctx, payload, services).run()


class InternalServices:
    """The internal listeners of the notifier and the submitter, which the report key opens."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        notifier_url: str,
        submitter_url: str,
        keys: ReloadingFile[tuple[str, ...]],
        by: str,
    ) -> None:
        self._session = session
        self._notifier_url = notifier_url.rstrip("/")
        self._submitter_url = submitter_url.rstrip("/")
        self._keys = keys
        self._by = by or BULK_KIND  # whom the submitter logs

    async def page(self, filter: BulkFilter, cursor: str | None) -> _Page:  # noqa: A002
        """Return a page of the jobs that a filter selects."""
        position = [] if cursor is None else [("cursor", cursor)]
        query = urlencode([*filter.parameters(), ("limit", str(PAGE)), *position])
        return decode(await self._request("GET", f"{self._notifier_url}/jobs?{query}"), _Page)

    async def redrive(self, selected: SelectedJob) -> None:
        """Redrive a job, if it still has the same generation."""
        await self._request(
            "POST", f"{self._submitter_url}/jobs/{selected.id}/redrive", generation=selected.generation, by=self._by
        )

    async def rerun(self, selected: SelectedJob, new_id: UUID) -> None:
        """Run a job again, as a job with another id."""
        await self._request("POST", f"{self._submitter_url}/jobs/{selected.id}/rerun", id=new_id, by=self._by)

    async def cancel(self, selected: SelectedJob, until: Timestamp | None) -> None:
        """Cancel a job, if it has not ended, still has the same generation, and was not redriven after `until`."""
        url = f"{self._notifier_url}/jobs/{selected.id}/cancel"
        await self._request("POST", url, generation=selected.generation, until=until, by=self._by)

    async def _request(self, method: str, url: str, **fields: Any) -> bytes:
        """Send a request, and return the body of the answer.

        Raises:
            RequestFailed: the service refuses the action for this job.
            Fail: the notifier refuses the filter.
            Retry: the service is unavailable, or does not accept the report key: it is being rotated.
        """
        body = encode(fields) if method == "POST" else None
        try:
            return await request_with_retry(
                self._session,
                method,
                url,
                retry_for_s=RETRY_FOR_S,
                token=self._keys.value[0],
                headers={"Content-Type": JSON},
                body=body,
            )
        except RequestFailed as error:
            if error.status == HTTPStatus.UNAUTHORIZED:
                raise Retry(REFUSED_KEY, after_s=RETRY_AFTER_S) from error
            if method == "GET" and (error.status, error.code) == INVALID:
                raise Fail(f"The notifier refuses the filter: {error}") from error
            if error.status in RETRYABLE_STATUSES or error.code == UNEXPECTED or method == "GET":
                raise Retry(UNAVAILABLE, after_s=RETRY_AFTER_S) from error
            raise
        except Unreachable as error:
            raise Retry(UNAVAILABLE, after_s=RETRY_AFTER_S) from error


class BulkRun:
    """One attempt of the action, from its last checkpoint to the last job."""

    def __init__(self, ctx: JobContext, request: BulkRequest, services: InternalServices) -> None:
        saved = ctx.checkpoint_value
        self._ctx = ctx
        self._request = request
        self._services = services
        self._state = BulkState() if saved is None else convert(saved, BulkState, strict=False)

    async def run(self) -> BulkResult:
        """Act on page after page."""
        state = self._state
        while True:
            if not state.page:
                page = await self._services.page(self._request.filter, state.next)
                state.page, state.next = list(self._selected(page)), page.next
                state.complete = state.complete and page.complete
                if state.page:
                    await self._ctx.checkpoint(state)
            for start in range(0, len(state.page), CONCURRENCY):
                await self._act_on_group(state.page[start : start + CONCURRENCY])
            state.page = []
            if state.next is None:
                return BulkResult(state.done, state.skipped, state.failed, state.complete)

    def _selected(self, page: _Page) -> Iterator[SelectedJob]:
        """Yield the jobs to act on. A repeated request may select this job, too, which would cancel itself."""
        for listed in page.jobs:
            is_this_job = listed.job.id == self._ctx.job_id
            if not is_this_job and self._request.filter.selects_kind(self._request.action, listed.job.kind):
                yield SelectedJob(listed.job.id, listed.job.generation)

    async def _act_on_group(self, group: list[SelectedJob]) -> None:
        """Act on some jobs at the same time, but not faster than the limit."""
        pause = asyncio.create_task(asyncio.sleep(len(group) / MAX_PER_S))
        async with asyncio.TaskGroup() as actions:
            for selected in group:
                actions.create_task(self._act(selected))
        count, total = self._state.count, self._request.total
        message = f"{self._state.done} {DONE[self._request.action]}{'' if self._state.complete else INCOMPLETE}"
        self._ctx.progress(count, None if total is None else max(total, count), message, unit="jobs")
        await pause

    async def _act(self, selected: SelectedJob) -> None:
        state, action = self._state, self._request.action
        try:
            match action:
                case "redrive":
                    await self._services.redrive(selected)
                case "rerun":
                    await self._services.rerun(selected, uuid5(self._ctx.job_id, str(selected.id)))
                case "cancel":
                    await self._services.cancel(selected, self._request.filter.until)
        except RequestFailed as error:
            outcomes = state.skipped if error.code in SKIPPED else state.failed
            outcomes[error.code] = outcomes.get(error.code, 0) + 1
        else:
            state.done += 1
