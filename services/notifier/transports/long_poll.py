"""Plain HTTP: a job's snapshot with its version as the ETag, long polling for newer ones, and cancellation.

`Prefer: wait=30` (RFC 7240 §4.3) delays the response until a snapshot is newer than the client's. `POST /live/jobs` is
the same for many jobs in one request, for pages behind a proxy that blocks both WebSockets and event streams.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Any

import msgspec
from aiohttp import web
from websockets.frames import CloseCode

from headway.tokens import CANCEL

from ...runtime.errors import Forbidden
from ...runtime.request import JSON
from ..logs.piece import LogPiece, encode_json
from ..logs.store import LogStore
from ..records.store import JobStore
from ..watching.snapshot import NO_VERSION, PublishedSnapshot, placeholder_snapshot
from .auth import TokenAuth, WatchRequest, request_origin, unavailable_without_store
from .base import error_payload, log_refusal
from .cancellation import cancel_job
from .log_access import read_log
from .polling import PollConnection, close_if_sent_away
from .refusals import RejectedToken, problem_for
from .registry import ConnectionRegistry

MAX_WAIT_S = 60
RECORD_LOST = "The record of this job was lost."
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})")
_ETAG = re.compile(r'"(\d{1,16})"', re.ASCII)


class LongPollRequest(PollConnection):
    """A request whose response is delayed until there is a newer snapshot or an error."""

    transport = "poll"

    def __init__(self, transport: asyncio.Transport, origin: str | None, *, complete_when_ended: bool) -> None:
        super().__init__(transport, origin)
        self.newer_snapshots: dict[str, PublishedSnapshot] = {}
        self.errors: list[dict[str, Any]] = []
        self.log_pieces: list[LogPiece] = []
        self._complete_when_ended = complete_when_ended

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        """Add a snapshot to the response, which completes the request."""
        self.newer_snapshots[job_id] = snapshot
        self.ready.set()
        return True

    def send_log(self, piece: LogPiece) -> None:
        """Add a piece of a log to the response, which completes the request."""
        self.log_pieces.append(piece)
        self.ready.set()

    def refuse_log(self, job_id: str) -> None:
        """Add the error that the token does not open the log, which completes the request."""
        self.errors.append(log_refusal(job_id))
        self.ready.set()

    def send_error(self, job_id: str | None, code: str, message: str) -> None:
        """Add an error to the response.

        `unknown` does not complete the request: the client would poll again in a tight loop.
        """
        self.errors.append(error_payload(job_id, code, message))
        if code != "unknown":
            self.ready.set()

    def on_up_to_date(self, job_id: str, *, ended: bool) -> None:  # noqa: ARG002
        """Called when the client has the last version; completes the request if the job has ended."""
        if ended and self._complete_when_ended:
            self.ready.set()


class LongPollHandler:
    """Handles requests for snapshots and for cancellation.

    `on_polled` is called with the worker and the id of an unfinished job that clients read without waiting: they
    do not watch the job, so that the worker may report progress seldom.
    """

    def __init__(
        self,
        registry: ConnectionRegistry,
        store: JobStore,
        logs: LogStore,
        auth: TokenAuth,
        on_polled: Callable[[str, str], None],
    ) -> None:
        self._registry = registry
        self._store = store
        self._logs = logs
        self._auth = auth
        self._on_polled = on_polled

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [
            web.get("/live/jobs/{id}", self.get_job),
            web.post("/live/jobs", self.query_jobs),
            web.post("/live/jobs/{id}/cancel", self.cancel),
        ]

    async def get_job(self, request: web.Request) -> web.Response:
        """Answer with the job's snapshot, or 304 if the client's version is the newest."""
        known_versions = [int(version) for version in _ETAG.findall(request.headers.get("If-None-Match", ""))]
        watch_request = self._auth.authorize_job(request, max(known_versions, default=None))
        newer, errors, _ = await self._wait_for_newer(request, [watch_request], complete_when_ended=True)
        date = formatdate(self._store.clock.now() / 1000, usegmt=True)  # by the clock of the snapshot's times
        headers = {"Cache-Control": "private, no-cache", "Date": date} | preference_applied(request)
        if not newer and errors:  # the client has a version, which the placeholder must not replace
            raise problem_for(errors[0]["code"], errors[0]["message"])
        if not newer:
            return close_if_sent_away(
                self._registry, web.Response(status=304, headers={"ETag": f'"{watch_request.version}"', **headers})
            )
        headers["ETag"] = f'"{newer[0].version}"'
        return close_if_sent_away(self._registry, web.Response(body=newer[0].text, content_type=JSON, headers=headers))

    async def query_jobs(self, request: web.Request) -> web.Response:
        """Answer with the snapshots that are newer than the client's, and the errors of the other jobs."""
        requests, rejected = await self._auth.authorize_jobs(request, self._registry.max_watches)
        rejections = [token.error for token in rejected]
        newer, errors, log_pieces = await self._wait_for_newer(
            request, requests, complete_when_ended=False, without_waiting=bool(rejections)
        )
        follows_logs = any(watch.log is not None for watch in requests)
        logs = b',"logs":[%b]' % b",".join(piece.encoded(encode_json) for piece in log_pieces) if follows_logs else b""
        body = b'{"now":"%b","jobs":[%b],"errors":%b%b}' % (
            str(self._store.clock.now()).encode(),
            b",".join(snapshot.text for snapshot in newer),
            msgspec.json.encode(rejections + errors),
            logs,
        )
        headers = {"Cache-Control": "no-store"} | preference_applied(request)
        return close_if_sent_away(self._registry, web.Response(body=body, content_type=JSON, headers=headers))

    async def _wait_for_newer(
        self,
        request: web.Request,
        requests: Sequence[WatchRequest],
        *,
        complete_when_ended: bool,
        without_waiting: bool = False,
    ) -> tuple[list[PublishedSnapshot], list[dict[str, Any]], list[LogPiece]]:
        """Return what is newer than the client has, and errors; if there are none, wait as the client prefers.

        Args:
            request: the client's request.
            requests: the jobs and the client's versions of them.
            complete_when_ended: do not wait for a job that has ended, since only a redrive would change it.
            without_waiting: do not wait at all.
        """
        wait_s, origin = requested_wait_s(request), request_origin(request)
        newer, errors, ended = await self._read_current(requests, origin, waits=bool(wait_s))
        log_pieces = await self._read_logs(requests, origin, errors)
        connection = request.transport
        if (
            newer
            or log_pieces
            or any(error["code"] != "unknown" for error in errors)
            or (without_waiting or not wait_s)
            or (complete_when_ended and ended)
            or (self._registry.draining or connection is None)
        ):
            return newer, errors, log_pieces
        self._registry.ensure_capacity()
        long_poll = LongPollRequest(connection, origin, complete_when_ended=complete_when_ended)
        with self._registry.serve(long_poll):
            for watch_request in requests:
                self._registry.subscribe(long_poll, watch_request)
            await long_poll.wait_until_ready(wait_s)
            long_poll.set_close_code(CloseCode.NORMAL_CLOSURE)
        return list(long_poll.newer_snapshots.values()), long_poll.errors, long_poll.log_pieces

    async def _read_logs(
        self, requests: Sequence[WatchRequest], origin: str | None, errors: list[dict[str, Any]]
    ) -> list[LogPiece]:
        """Return the stored logs that clients lack, of the jobs without errors; add the errors of closed logs."""
        failed = {error["job_id"] for error in errors}
        pieces: list[LogPiece] = []
        for grant, _key_id, _version, offset in requests:
            if offset is None or str(grant.job_id) in failed:
                continue
            try:
                log = await read_log(self._logs, self._auth, grant, offset, origin)
            except Forbidden:
                errors.append(log_refusal(str(grant.job_id)))
            else:
                pieces += log.pieces(str(grant.job_id), offset)
        return pieces

    async def _read_current(
        self, requests: Sequence[WatchRequest], origin: str | None, *, waits: bool
    ) -> tuple[list[PublishedSnapshot], list[dict[str, Any]], bool]:
        """Return the snapshots newer than the client's, errors, and whether one of the jobs has ended."""
        with unavailable_without_store():
            records = await self._store.read([str(watch.grant.job_id) for watch in requests])
        newer, errors, ended = [], [], False
        for (grant, _key_id, version, _log), record in zip(requests, records, strict=True):
            snapshot = PublishedSnapshot.from_record(str(grant.job_id), record)
            rejected = self._auth.check_record(grant, None if snapshot is None else record, origin)
            if rejected is None and snapshot is None and version:
                rejected = RejectedToken("unknown", RECORD_LOST, str(grant.job_id))
            if rejected is not None:
                errors.append(rejected.error)
                continue
            if not waits and snapshot is not None and not snapshot.ended and record is not None and record.worker:
                self._on_polled(record.worker, str(grant.job_id))
            snapshot = snapshot or PublishedSnapshot(placeholder_snapshot(grant))
            ended = ended or snapshot.ended
            if snapshot.version > (NO_VERSION if version is None else version):
                newer.append(snapshot)
        return newer, errors, ended

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel the job, or request that from its worker; answer with the snapshot."""
        grant = self._auth.authorize_job(request, scope=CANCEL).grant
        with unavailable_without_store():
            text = await cancel_job(self._store, self._auth, grant, request_origin(request))
        if isinstance(text, RejectedToken):
            raise problem_for(text.code, text.message)
        snapshot = PublishedSnapshot.parse(str(grant.job_id), text) or PublishedSnapshot(placeholder_snapshot(grant))
        headers = {"ETag": f'"{snapshot.version}"', "Cache-Control": "no-store"}
        return web.Response(status=202, body=snapshot.text, content_type=JSON, headers=headers)


def requested_wait_s(request: web.Request) -> int:
    """Return how long the client prefers to wait, up to MAX_WAIT_S, which most proxies allow."""
    match = _WAIT.search(request.headers.get("Prefer", ""))
    return min(MAX_WAIT_S, int(match[1])) if match else 0


def preference_applied(request: web.Request) -> dict[str, str]:
    """Return the header that confirms the preference of a client that may wait."""
    wait_s = requested_wait_s(request)
    return {"Preference-Applied": f"wait={wait_s}"} if wait_s else {}
