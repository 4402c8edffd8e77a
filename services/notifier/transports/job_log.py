"""The log of a job over plain HTTP: as a text, from a byte offset on, with `Prefer: wait=30` for what is not there yet.

A range that begins after the oldest kept byte is answered 206. `Content-Range` says where the text really begins, and
its length is `*`, since a log grows.
"""

from __future__ import annotations

import re
from http import HTTPStatus

from aiohttp import web
from websockets.frames import CloseCode

from headway.tokens import Grant

from ...runtime.errors import HTTPProblem
from ..logs.store import LogStore, StoredLog
from ..records.record_read import RecordRead
from ..records.store import JobStore
from ..watching.snapshot import PublishedSnapshot
from .auth import TokenAuth, WatchRequest, request_origin, unavailable_without_store
from .log_access import LOG_LINGER_S, read_log
from .long_poll import LongPollRequest, preference_applied, requested_wait_s
from .polling import close_if_sent_away
from .refusals import problem_for
from .registry import ConnectionRegistry

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Accept-Ranges": "bytes"}
_RANGE = re.compile(r"bytes=(\d{1,16})-", re.ASCII)


class RangeNotSatisfiable(HTTPProblem):
    """The log ends at or before the requested offset."""

    status, code = 416, "range_not_satisfiable"

    def __init__(self, end: int) -> None:
        super().__init__(f"The log ends at byte {end}.", field="Range")
        self._end = end

    def headers(self) -> dict[str, str]:
        """Return the end of the log, as RFC 9110 (§15.5.17) demands."""
        return {**super().headers(), **HEADERS, "Content-Range": f"bytes */{self._end}"}


class HeldLogRequest(LongPollRequest):
    """A request whose response is delayed until the log goes on."""

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:  # noqa: ARG002
        """Ignore a snapshot."""
        return True


class JobLogHandler:
    """Handles requests for the logs of jobs."""

    def __init__(self, registry: ConnectionRegistry, store: JobStore, logs: LogStore, auth: TokenAuth) -> None:
        self._registry = registry
        self._store = store
        self._logs = logs
        self._auth = auth

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [web.get("/live/jobs/{id}/log", self.get_log)]

    async def get_log(self, request: web.Request) -> web.Response:
        """Answer with the log from an offset, or wait until there is more of it."""
        watch_request = self._auth.authorize_job(request)
        with unavailable_without_store():
            (record,) = await self._store.read([str(watch_request.grant.job_id)])
        self._auth.require_record(request, watch_request.grant, record)
        requested = _RANGE.fullmatch(request.headers.get("Range", ""))  # other ranges are ignored
        offset, prefers_wait = int(requested[1]) if requested else 0, requested_wait_s(request) > 0
        log = await self._read(request, watch_request.grant, offset)
        if prefers_wait and log.end == offset:
            await self._wait(request, watch_request._replace(log=offset), record)
            log = await self._read(request, watch_request.grant, offset)
            if log.end == offset:
                return self._respond(request, HTTPStatus.NO_CONTENT, {"Content-Range": f"bytes */{log.end}"})
        if requested is None:
            return self._respond(request, HTTPStatus.OK, {}, log.data)
        start = max(offset, log.base)
        if log.end <= start:
            raise RangeNotSatisfiable(log.end)
        content_range = f"bytes {start}-{log.end - 1}/*"
        return self._respond(request, HTTPStatus.PARTIAL_CONTENT, {"Content-Range": content_range}, log.data)

    async def _read(self, request: web.Request, grant: Grant, offset: int) -> StoredLog:
        return await read_log(self._logs, self._auth, grant, offset, request_origin(request))

    async def _wait(self, request: web.Request, watch_request: WatchRequest, record: RecordRead | None) -> None:
        """Wait until the log goes on, or this replica sends its clients away.

        Raises:
            HTTPProblem: the token no longer opens the log.
        """
        wait_s = self._hold_s(request, str(watch_request.grant.job_id), record)
        if wait_s <= 0 or self._registry.draining or request.transport is None:
            return
        self._registry.ensure_capacity()
        held = HeldLogRequest(request.transport, request_origin(request), complete_when_ended=False)
        with self._registry.serve(held):
            self._registry.subscribe(held, watch_request)
            await held.wait_until_ready(wait_s)
            held.set_close_code(CloseCode.NORMAL_CLOSURE)
        for error in held.errors:
            if error["code"] != "unknown":
                raise problem_for(error["code"], error["message"])

    def _hold_s(self, request: web.Request, job_id: str, record: RecordRead | None) -> float:
        """Return how long to wait: after the end of the job, only as long as its worker may need to send the rest."""
        snapshot = PublishedSnapshot.from_record(job_id, record)
        if snapshot is None or not snapshot.ended:
            return requested_wait_s(request)
        ended_ago_s = (self._store.clock.now() - snapshot.version) / 1000
        return min(requested_wait_s(request), LOG_LINGER_S - ended_ago_s)

    def _respond(
        self, request: web.Request, status: HTTPStatus, headers: dict[str, str], data: bytes = b""
    ) -> web.Response:
        headers = {**HEADERS, **preference_applied(request), **headers}
        if status == HTTPStatus.NO_CONTENT:
            response = web.Response(status=status, headers=headers)
        else:
            response = web.Response(
                status=status, body=data, headers=headers, content_type="text/plain", charset="utf-8"
            )
        return close_if_sent_away(self._registry, response)
