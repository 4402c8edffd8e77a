"""Requests of a client for lists of jobs, and for the tokens that open them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Unpack
from uuid import UUID

import msgspec

from headway.client.job_queries import (
    IssuedToken,
    JobListPage,
    JobQuery,
    ListedJob,
    decode_page,
    narrowest_token,
    query_string,
)
from headway.client.retries import RequestFailed
from headway.client.service_client import ServiceClient, decode_response
from headway.client.submission import JSON_BODY
from headway.contracts import encode
from headway.labels import JobFilter

PAGE_SIZE = 100  # jobs in a request of `jobs`
LIST_SCOPE, JOB_SCOPE = "list watch cancel", "watch cancel"
TOKEN_TTL_S = 3600.0
MAX_TOKEN_TTL_S = 86_400.0  # of the token of one `jobs` or `log`, whose caller may take his time


class JobLists(ServiceClient):
    """Lists jobs, and issues tokens for jobs and lists with the client's API key."""

    async def list_token(
        self,
        *,
        owner: str | None = None,
        tag: str | None = None,
        kind: str | None = None,
        scope: str = LIST_SCOPE,
        ttl_s: float = TOKEN_TTL_S,
    ) -> IssuedToken:
        """Return a token that opens all jobs that match a filter, for example to show users their own jobs.

        The client needs an API key. An empty filter needs the role `operate`, unless the scope is `list details`.

        Args:
            owner: only jobs of this owner.
            tag: only jobs with this tag.
            kind: only jobs of this kind.
            scope: what the token allows: `list`, and some of `watch`, `cancel`, `details` and `operate`.
            ttl_s: for how many seconds the token is valid, at most a day.

        Raises:
            RequestFailed: the submitter rejected the request, or was still failing after `retry_for_s`.
            Unreachable: the submitter did not respond within `retry_for_s`.
        """
        return await self._issue({"filter": JobFilter(owner=owner, tag=tag, kind=kind), "scope": scope, "ttl_s": ttl_s})

    async def job_token(self, job_id: UUID | str, *, scope: str = JOB_SCOPE, ttl_s: float = TOKEN_TTL_S) -> IssuedToken:
        """Return a token for any job of the submitter; the client needs an API key.

        Args:
            job_id: the job's id. The token opens the job only if it has a record.
            scope: what the token allows: `watch`, and some of `cancel`, `details` and `operate`.
            ttl_s: as for `list_token`.

        Raises:
            ValueError: `job_id` is not the id of a job.
            RequestFailed, Unreachable: as for `list_token`.
        """
        return await self._issue({"job": UUID(str(job_id)), "scope": scope, "ttl_s": ttl_s})

    async def jobs(
        self, token: str | None = None, *, limit: int | None = None, **query: Unpack[JobQuery]
    ) -> AsyncIterator[ListedJob]:
        """Yield the jobs that match a query, the newest first; the client requests page after page.

        Args:
            token: a list token. Without one, the client gets one with its API key, for as few jobs as possible.
            limit: the greatest number of jobs; by default all.
            query: `status`, `kind`, `owner`, `tag`, `since`, `until`, `attempts_min`, `error_type`: see `JobQuery`.

        Raises:
            ValueError: a time has no time zone.
            InvalidToken: the token is invalid or expired.
            RequestFailed: a service rejected the request, or was still failing after `retry_for_s`; `field` names a
                field of the query that is not valid, or not allowed by the token.
            Unreachable: a service did not respond within `retry_for_s`.
        """
        notifier, token = await self._open_list(query, token, MAX_TOKEN_TTL_S)
        cursor, left = None, sys.maxsize if limit is None else limit
        while left > 0:
            page = await self._get_page(notifier, token, query_string(query, min(left, PAGE_SIZE), cursor))
            for job in page.jobs:
                yield job
            left, cursor = left - len(page.jobs), page.next
            if cursor is None:
                return

    async def jobs_page(
        self,
        token: str | None = None,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        **query: Unpack[JobQuery],
    ) -> JobListPage:
        """Return one page of the jobs that match a query.

        Args:
            token: as for `jobs`.
            limit: the greatest number of jobs, 1 to 200; by default the notifier's, 50.
            cursor: the `next` of the page before, of the same query; None for the first page.
            query: as for `jobs`.

        Raises:
            InvalidToken, RequestFailed, Unreachable, ValueError: as for `jobs`.
        """
        selection = query_string(query, limit, cursor)
        notifier, token = await self._open_list(query, token, TOKEN_TTL_S)
        return await self._get_page(notifier, token, selection)

    async def _open_list(self, query: JobQuery, token: str | None, ttl_s: float) -> tuple[str, str]:
        """Return the notifier's address and a token for a query: the given one, or one for as few jobs as possible."""
        if token is None:
            job_filter, scope = narrowest_token(query)
            token = (await self._issue({"filter": job_filter, "scope": scope, "ttl_s": ttl_s})).token
        return await self._find_notifier(), token

    async def _get_page(self, notifier: str, token: str, selection: str) -> JobListPage:
        body = await self._request("GET", f"{notifier}/live/jobs?{selection}", token)
        try:
            return decode_page(body)
        except msgspec.DecodeError as error:
            raise RequestFailed(None, "unexpected", f"The notifier sent an unexpected list: {error}") from error

    async def _issue(self, request: dict[str, object]) -> IssuedToken:
        response = await self._request("POST", f"{self._url}/tokens", self._api_key, JSON_BODY, encode(request))
        return decode_response(response, IssuedToken)
