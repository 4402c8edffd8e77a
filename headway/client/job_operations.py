"""What operators do with jobs of all callers: look into them, run them again, one by one or in bulk, and erase them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Unpack
from uuid import UUID, uuid4

from msgspec import UNSET

from headway.client.current_trace import trace_headers
from headway.client.job_details import JobDetails
from headway.client.job_lists import TOKEN_TTL_S, JobLists
from headway.client.job_queries import JobQuery, query_fields
from headway.client.links import Link, linked_job_id
from headway.client.receipts import JobRef, Receipt
from headway.client.retries import RequestFailed, Unreachable
from headway.client.service_client import decode_response
from headway.client.submission import JSON_BODY
from headway.contracts import JobSnapshot, encode, encode_value
from headway.details import BulkAction, BulkPreview, RedrivenJob
from headway.grants import READ_ALL, WATCH
from headway.tokens import InvalidToken

REDRIVEN_DELAYS_S = (0.0, 1.0, 2.0, 4.0)  # before the looks whether a repeated redrive has had its effect


class JobOperations(JobLists):
    """Reads the details of jobs of all callers with an API key, and acts on them with one that has the role `operate`.

    A token with the scope `details` or `operate` does the same for the jobs that it opens.
    """

    async def details(self, job: JobRef, *, token: str | None = None) -> JobDetails:
        """Return a job's payload, labels, true errors with the traceback, and steps.

        Args:
            job: a receipt, a link or an id.
            token: a token with the scope `details`; without one, the client gets one with its API key.

        Raises:
            InvalidToken: the token is for another job, invalid or expired.
            RequestFailed: a service rejected the request, or was still failing after `retry_for_s`.
            Unreachable: a service did not respond within `retry_for_s`.
            ValueError: `job` is neither a link nor an id.
        """
        link = await self._details_link(job, token)
        url = f"{link.base}/live/jobs/{link.id}/details"
        return decode_response(await self._request("GET", url, link.token), JobDetails)

    async def redrive(
        self, job: JobRef, *, generation: int | None = None, from_start: bool = False, token: str | None = None
    ) -> RedrivenJob:
        """Run an ended job again, with all its attempts, under the same id. Its watchers see it go on.

        The job is redriven once, also if a response is lost and the client repeats the request. For this, the client
        reads the generation of the job first, if you pass none; a token needs the scope `watch`, too.

        Args:
            job: a receipt, a link or an id.
            generation: the generation of the job that you have seen; if it has another one, it is not redriven.
            from_start: whether to forget the checkpoint.
            token: a token with the scope `operate`; without one, the client sends its API key.

        Raises:
            RequestFailed: the submitter rejected the request, or was still failing after `retry_for_s`. The `code` is
                `not_ended` if the job has not ended, `changed` if it has another generation, `payload_not_kept` if its
                message was not kept, and `unknown` if there is no such job.
            Unreachable: the submitter did not respond within `retry_for_s`.
            ValueError: `job` is neither a link nor an id.
        """
        if generation is None:
            generation = await self._find_generation(job, token)
        fields = {"generation": generation, "from_start": from_start or None}
        try:
            return decode_response(await self._operate("POST", job, "/redrive", token, fields), RedrivenJob)
        except RequestFailed as error:
            redriven = await self._find_redriven(job, token, generation) if error.is_repeated else None
            if redriven is None:
                raise
            return redriven

    async def _find_redriven(self, job: JobRef, token: str | None, before: int | None) -> RedrivenJob | None:
        """Return the job if it has another generation than before; the first request may still be in progress."""
        for delay_s in REDRIVEN_DELAYS_S:
            await asyncio.sleep(delay_s)
            now = await self._find_generation(job, token)
            if now is not None and (before is None or now > before):
                return RedrivenJob(job_id(job), now)
        return None

    async def _find_generation(self, job: JobRef, token: str | None) -> int | None:
        """Return the generation of a job; None if the job has no record, or the caller may not see it."""
        try:
            if token is None:
                token = (await self.job_token(job_id(job), scope=WATCH)).token
            url = f"{await self._find_notifier()}/live/jobs/{job_id(job)}"
            snapshot = decode_response(await self._request("GET", url, token), JobSnapshot)
        except (RequestFailed, InvalidToken, Unreachable):
            return None
        return snapshot.generation if snapshot.version else None

    async def rerun(
        self,
        job: JobRef,
        payload: Any = UNSET,
        *,
        idempotency_key: str | None = None,
        result_type: Any = Any,
        token: str | None = None,
    ) -> Receipt:
        """Submit a job again as a new job, and return the receipt. The old job stays as it is.

        Args:
            job: a receipt, a link or an id.
            payload: another payload; by default that of the job.
            idempotency_key: repeating a rerun with it returns the same job; by default a random key.
            result_type: as for `submit`.
            token: as for `redrive`.

        Raises:
            RequestFailed, Unreachable, ValueError: as for `redrive`.
        """
        fields = {} if payload is UNSET else {"payload": encode_value("payload", payload)}
        response = await self._operate("POST", job, "/rerun", token, fields, _idempotent(idempotency_key))
        return self._remember(decode_response(response, Receipt), result_type)

    async def erase(self, job: JobRef, *, token: str | None = None) -> None:
        """Remove the result, the log, the details, the kept message and the text of the error of an ended job.

        Args:
            job: as for `redrive`.
            token: as for `redrive`.

        Raises:
            RequestFailed, Unreachable, ValueError: as for `redrive`.
        """
        await self._operate("DELETE", job, "", token)

    async def preview_bulk(
        self, action: BulkAction, *, token: str | None = None, **query: Unpack[JobQuery]
    ) -> BulkPreview:
        """Return how many jobs a bulk action would act on, and some of them.

        Args:
            action: `redrive`, `cancel` or `rerun`.
            token: as for `redrive`.
            query: the jobs: see `JobQuery`. By default, `redrive` selects those that have failed, and `cancel` those
                that have not ended.

        Raises:
            RequestFailed, Unreachable: as for `redrive`.
            ValueError: a time has no time zone.
        """
        return decode_response(await self._bulk(action, query, token, dry_run=True), BulkPreview)

    async def bulk(
        self,
        action: BulkAction,
        *,
        idempotency_key: str | None = None,
        token: str | None = None,
        **query: Unpack[JobQuery],
    ) -> Receipt:
        """Act on all jobs that match a query, and return the receipt of the job that does so, with a bar.

        Args:
            action: as for `preview_bulk`.
            idempotency_key: repeating the action with it returns the same job; by default a random key.
            token: as for `redrive`.
            query: as for `preview_bulk`.

        Raises:
            RequestFailed, Unreachable, ValueError: as for `preview_bulk`.
        """
        response = await self._bulk(action, query, token, _idempotent(idempotency_key))
        return self._remember(decode_response(response, Receipt), Any)

    async def _bulk(
        self,
        action: BulkAction,
        query: JobQuery,
        token: str | None,
        headers: Mapping[str, str] | None = None,
        *,
        dry_run: bool | None = None,
    ) -> bytes:
        fields = {"action": action, "filter": query_fields(query), "dry_run": dry_run}
        return await self._send("POST", f"{self._url}/bulk", token, fields, headers)

    async def _operate(
        self,
        method: str,
        job: JobRef,
        path: str,
        token: str | None,
        fields: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        return await self._send(method, f"{self._url}/jobs/{job_id(job)}{path}", token, fields, headers)

    async def _send(
        self,
        method: str,
        url: str,
        token: str | None,
        fields: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
    ) -> bytes:
        """Send a request with the API key, or with a token, without the fields that are not set."""
        if fields is None:
            return await self._request(method, url, token or self._api_key)
        body = encode({name: value for name, value in fields.items() if value is not None})
        all_headers = {**JSON_BODY, **trace_headers(), **(headers or {})}
        return await self._request(method, url, token or self._api_key, all_headers, body)

    async def _details_link(self, job: JobRef, token: str | None, ttl_s: float = TOKEN_TTL_S) -> Link:
        """Return the link to a job at its notifier, with the given token, one for details, or the job's own."""
        if token is not None:
            return await self._resolve_link(job, token)
        own = self._own_link(job)
        if own is not None and not own.live and own.base != self._url:
            return await self._resolve_link(own, None)  # another submitter's job
        try:
            issued = await self.list_token(scope=READ_ALL, ttl_s=ttl_s)
        except RequestFailed:  # there is no API key
            if own is None:
                raise
            return await self._resolve_link(own, None)
        return Link(await self._find_notifier(), live=True, id=job_id(job), token=issued.token)

    def _own_link(self, job: JobRef) -> Link | None:
        """Return the link of a job with the token that it came with, if there is one."""
        try:
            return self._find_link(job, None)
        except ValueError:
            return None


def job_id(job: JobRef) -> UUID:
    """Return the id of a job; raise ValueError if a text is neither a link nor an id."""
    if isinstance(job, str):
        return linked_job_id(job) if "/" in job else UUID(job)
    return job if isinstance(job, UUID) else job.id


def _idempotent(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key or str(uuid4())}
