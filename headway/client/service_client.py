"""What all requests of a client share: the session, retries, and the links to jobs at their notifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from headway.client.links import JobPage, Link
from headway.client.loop_session import LoopSession
from headway.client.receipts import JobRef, Receipt, TypedReceipt
from headway.client.retries import RequestFailed
from headway.contracts import decode
from headway.tokens import InvalidToken, unverified_is_list, unverified_job_id

T = TypeVar("T")

MAX_REMEMBERED_RECEIPTS = 10_000  # of submitted jobs, which callers may then refer to by id
ANY_JOB = UUID(int=0)  # the submitter links every id to the notifier


class ServiceClient:
    """Sends requests to one submitter, and to the notifiers to which it links."""

    def __init__(self, url: str, api_key: str | None, *, retry_for_s: float) -> None:
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._retry_for_s = retry_for_s
        self._receipts: dict[UUID, Receipt] = {}
        self._session = LoopSession()

    async def _request(
        self,
        method: str,
        url: str,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> bytes:
        response = await self._session.respond(
            method, url, retry_for_s=self._retry_for_s, token=token, headers=headers, body=body
        )
        return response.body

    def _remember(self, receipt: Receipt, result_type: Any) -> Receipt:
        if result_type is not Any:
            receipt = TypedReceipt(receipt.id, receipt.token, receipt.links, result_type)
        self._receipts[receipt.id] = receipt
        if len(self._receipts) > MAX_REMEMBERED_RECEIPTS:
            del self._receipts[next(iter(self._receipts))]
        return receipt

    def _find_link(self, job: JobRef, token: str | None) -> Link:
        """Return the link of a job; check that its token is for this job, or for a list, which may contain the job."""
        if isinstance(job, str) and "/" not in job:
            job = UUID(job)
        if isinstance(job, UUID):
            if token is not None:  # a user's token, which may permit less than that of the receipt
                job = Link(self._url, live=False, id=job, token=token)
            elif job in self._receipts:
                job = self._receipts[job]
            else:
                raise ValueError(f"This client has not submitted job {job}; pass its link, or a token, too")
        if isinstance(job, Receipt):
            link = Link.parse(job.links["live"], job.token)
        else:
            link = job if isinstance(job, Link) else Link.parse(job, token)
        if unverified_job_id(link.token) != link.id and not unverified_is_list(link.token):
            raise InvalidToken("invalid_token", "The token is for another job.", link.id)
        return link

    async def _resolve_link(self, job: JobRef, token: str | None) -> Link:
        """Return the link to the job at its notifier; for a link to the page, ask the submitter (without the token)."""
        link = self._find_link(job, token)
        return link if link.live else Link.parse(await self._find_live_link(link.page), link.token)

    async def _find_notifier(self) -> str:
        """Return the address of the submitter's notifier."""
        live = await self._find_live_link(f"{self._url}/jobs/{ANY_JOB}")
        return live.partition("/live/jobs/")[0]

    async def _find_live_link(self, page: str) -> str:
        response = await self._request("GET", page, headers={"Accept": "application/json"})
        return decode_response(response, JobPage).links.live


def decode_response(body: bytes, target: type[T]) -> T:
    """Decode the body of a response; raise RequestFailed if it is not what the service should send."""
    try:
        return decode(body, target)
    except msgspec.DecodeError as error:
        raise RequestFailed(None, "unexpected", f"The server sent an unexpected response: {error}") from error
