"""Plain HTTP: a job's snapshot with its version as the ETag, at once or when there is a newer one, and cancelling.

`Prefer: wait=30` (RFC 7240 §4.3) holds the answer back until there is something to tell. `POST /live/jobs` is the same
for many jobs in one request, for pages behind a proxy that lets neither sockets nor streams through.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import msgspec
from aiohttp import web

from headway.contracts import Timestamp
from headway.tokens import CANCEL

from ...runtime.errors import NotFound
from ...runtime.request import JSON
from ..records.store import JobStore
from ..watching.snapshot import NO_VERSION, PublishedSnapshot, placeholder_snapshot
from .auth import TokenAuth, WatchRequest, unavailable_without_store
from .base import ClientConnection, error_payload
from .registry import ConnectionRegistry

MAX_WAIT_S = 60
COALESCE_S = 0.02  # what comes together is answered together
RECORD_LOST = "What was known of this job is lost."
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})")
_ETAG = re.compile(r'"(\d{1,16})"', re.ASCII)


class LongPollRequest(ClientConnection):
    """A request whose answer is held back until there is something to tell."""

    transport = "poll"
    logs_lifecycle = False

    def __init__(self, transport: asyncio.Transport, *, for_ending: bool) -> None:
        super().__init__(transport, None)
        self.newer: dict[str, PublishedSnapshot] = {}
        self.errors: list[dict[str, str]] = []
        self.ready = asyncio.Event()
        self._for_ending = for_ending

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        """Take a newer snapshot: the answer."""
        self.newer[job_id] = snapshot
        self.ready.set()
        return True

    def send_error(self, job_id: str | None, code: str, message: str) -> None:
        """Take an error; a lost record is no news, lest its watcher asks again at once and for ever."""
        self.errors.append(error_payload(job_id, code, message))
        if code != "unknown":
            self.ready.set()

    def on_up_to_date(self, job_id: str, *, ended: bool) -> None:  # noqa: ARG002
        """Take that there is nothing newer: nor will there be soon of a job that has ended."""
        if ended and self._for_ending:
            self.ready.set()

    def reap(self) -> None:
        """Let go of a request whose sender has left."""
        if self.is_closing:
            self.ready.set()

    async def close_for_restart(self) -> None:
        """Answer what there is, since the service restarts."""
        self.ready.set()


class LongPollHandler:
    """Answers whoever asks for jobs."""

    def __init__(self, registry: ConnectionRegistry, store: JobStore, auth: TokenAuth) -> None:
        self._registry = registry
        self._store = store
        self._auth = auth

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [
            web.get("/live/jobs/{id}", self.get_job),
            web.post("/live/jobs", self.query_jobs),
            web.post("/live/jobs/{id}/cancel", self.cancel),
        ]

    async def get_job(self, request: web.Request) -> web.Response:
        """Answer the job's snapshot, or 304 when there is none newer than the caller's."""
        grant = self._auth.authorize_job(request)
        known_versions = [int(version) for version in _ETAG.findall(request.headers.get("If-None-Match", ""))]
        watch_request = WatchRequest(grant, max(known_versions, default=None))
        newer, errors = await self._wait_for_newer(request, [watch_request], for_ending=True)
        headers = {"Cache-Control": "private, no-cache"} | _preference_applied(request)
        if not newer and errors:  # absence never replaces presence
            raise NotFound(errors[0]["message"], code=errors[0]["code"])
        if not newer:
            return self._close_if_draining(
                web.Response(status=304, headers={"ETag": f'"{watch_request.version}"', **headers})
            )
        headers["ETag"] = f'"{newer[0].version}"'
        return self._close_if_draining(web.Response(body=newer[0].text, content_type=JSON, headers=headers))

    async def query_jobs(self, request: web.Request) -> web.Response:
        """Answer those of the jobs that are newer than what the caller has seen of them."""
        requests, rejected = await self._auth.authorize_jobs(request)
        rejections = [one.error for one in rejected]
        newer, errors = await self._wait_for_newer(request, requests, for_ending=False, at_once=bool(rejections))
        body = b'{"now":"%b","jobs":[%b],"errors":%b}' % (
            str(Timestamp.now()).encode(),
            b",".join(snapshot.text for snapshot in newer),
            msgspec.json.encode(rejections + errors),
        )
        headers = {"Cache-Control": "no-store"} | _preference_applied(request)
        return self._close_if_draining(web.Response(body=body, content_type=JSON, headers=headers))

    def _close_if_draining(self, response: web.Response) -> web.Response:
        """End the connection behind an answer when this replica stops: a new one finds another replica."""
        if self._registry.draining:
            response.force_close()
        return response

    async def _wait_for_newer(
        self, request: web.Request, requests: Sequence[WatchRequest], *, for_ending: bool, at_once: bool = False
    ) -> tuple[list[PublishedSnapshot], list[dict[str, str]]]:
        """Return the snapshots newer than what was seen, and what is wrong; wait for the first as long as is wished."""
        newer, errors, ended = await self._read_current(requests)
        wait_s = _requested_wait_s(request)
        connection = request.transport
        if newer or at_once or not wait_s or (for_ending and ended) or self._registry.draining or connection is None:
            return newer, errors
        self._registry.ensure_capacity()
        long_poll = LongPollRequest(connection, for_ending=for_ending)
        with self._registry.serve(long_poll):
            for grant, version in requests:
                self._registry.subscribe(long_poll, grant, version)
            try:
                async with asyncio.timeout(wait_s):
                    await long_poll.ready.wait()
                    await asyncio.sleep(COALESCE_S)
            except TimeoutError:
                pass
        return list(long_poll.newer.values()), long_poll.errors

    async def _read_current(
        self, requests: Sequence[WatchRequest]
    ) -> tuple[list[PublishedSnapshot], list[dict[str, str]], bool]:
        """Read the records once; tell also whether one of the jobs has ended."""
        with unavailable_without_store():
            texts = await self._store.read([str(one.grant.job_id) for one in requests])
        newer, errors, ended = [], [], False
        for (grant, version), text in zip(requests, texts, strict=True):
            snapshot = PublishedSnapshot.parse(text)
            if snapshot is None and version:
                errors.append(error_payload(str(grant.job_id), "unknown", RECORD_LOST))
                continue
            snapshot = snapshot or PublishedSnapshot(placeholder_snapshot(grant))
            ended = ended or snapshot.ended
            if snapshot.version > (NO_VERSION if version is None else version):
                newer.append(snapshot)
        return newer, errors, ended

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel the job, or ask the worker that holds it to; answer its snapshot."""
        grant = self._auth.authorize_job(request, scope=CANCEL)
        with unavailable_without_store():
            snapshot = PublishedSnapshot.parse(await self._store.cancel(grant)) or PublishedSnapshot(
                placeholder_snapshot(grant)
            )
        headers = {"ETag": f'"{snapshot.version}"', "Cache-Control": "no-store"}
        return web.Response(status=202, body=snapshot.text, content_type=JSON, headers=headers)


def _requested_wait_s(request: web.Request) -> int:
    """Return how long the caller wishes to wait, within what proxies stand."""
    wished = _WAIT.search(request.headers.get("Prefer", ""))
    return min(MAX_WAIT_S, int(wished[1])) if wished else 0


def _preference_applied(request: web.Request) -> dict[str, str]:
    wait_s = _requested_wait_s(request)
    return {"Preference-Applied": f"wait={wait_s}"} if wait_s else {}
