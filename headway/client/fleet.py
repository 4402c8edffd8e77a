"""Workers and kinds of jobs, as operators see them."""

from __future__ import annotations

from msgspec import Struct

from headway.client.job_lists import JobLists
from headway.client.service_client import decode_response
from headway.fleet import Kind, Worker
from headway.grants import DETAILS, LIST, OPERATE


class _Workers(Struct):
    workers: tuple[Worker, ...]


class _Kinds(Struct):
    kinds: tuple[Kind, ...]


class Fleet(JobLists):
    """Lists the kinds of jobs with any API key, and the workers that run with one that has the role `operate`."""

    async def workers(self, token: str | None = None) -> tuple[Worker, ...]:
        """Return the workers that were seen in the last 15 seconds.

        Args:
            token: a list token without a filter, with the scope `operate`; by default, one for the client's API key.

        Raises:
            InvalidToken: the token is invalid or expired.
            RequestFailed: a service rejected the request, or was still failing after `retry_for_s`.
            Unreachable: a service did not respond within `retry_for_s`.
        """
        return decode_response(await self._get_all("workers", token, OPERATE), _Workers).workers

    async def kinds(self, token: str | None = None) -> tuple[Kind, ...]:
        """Return the kinds of jobs with their numbers of the last 24 hours.

        Args:
            token: a list token without a filter, with the scope `details`; by default, one for the client's API key.

        Raises:
            InvalidToken, RequestFailed, Unreachable: as for `workers`.
        """
        return decode_response(await self._get_all("kinds", token, DETAILS), _Kinds).kinds

    async def _get_all(self, name: str, token: str | None, scope: str) -> bytes:
        if token is None:
            token = (await self.list_token(scope=f"{LIST} {scope}")).token
        return await self._request("GET", f"{await self._find_notifier()}/live/{name}", token)
