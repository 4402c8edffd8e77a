"""Plain HTTP: a job's snapshot with its version as the ETag, and cancelling."""

from __future__ import annotations

from aiohttp import web

from headway.tokens import CANCEL, TokenVerifier
from services.notifier.hub import Snapshot, queued
from services.notifier.records import Records
from services.notifier.transports.access import granted_for, records_needed
from services.problems import Forbidden, NotFound, check_origin
from services.settings import WatchedFile


class Poll:
    """Answers whoever asks for one job."""

    def __init__(self, records: Records, verifier: WatchedFile[TokenVerifier], origins: tuple[str, ...]) -> None:
        self._records = records
        self._verifier = verifier
        self._origins = origins

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [web.get("/live/jobs/{id}", self.get), web.post("/live/jobs/{id}/cancel", self.cancel)]

    async def get(self, request: web.Request) -> web.Response:
        """Answer the job's snapshot, or 304 when the caller has this version."""
        check_origin(request, self._origins)
        granted = granted_for(request, self._verifier.value)
        known = request.headers.get("If-None-Match", "").strip().removeprefix("W/").strip('"')
        with records_needed():
            (text,) = await self._records.read([str(granted.job_id)])
        snapshot = Snapshot.read(text)
        if snapshot is None and known.isdecimal() and known.strip("0"):  # absence never replaces presence
            raise NotFound("What was known of this job is lost.", code="unknown")
        snapshot = snapshot or Snapshot(queued(granted))
        headers = {"ETag": f'"{snapshot.version}"', "Cache-Control": "private, no-cache"}
        if known == str(snapshot.version):
            return web.Response(status=304, headers=headers)
        return web.Response(body=snapshot.text, content_type="application/json", headers=headers)

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel the job, or ask the worker that holds it to; answer its snapshot."""
        check_origin(request, self._origins)
        granted = granted_for(request, self._verifier.value)
        if CANCEL not in granted.scope:
            raise Forbidden("The token does not allow to cancel.")
        with records_needed():
            text = await self._records.cancel(granted)
        headers = {"ETag": f'"{Snapshot(text).version}"', "Cache-Control": "no-store"}
        return web.Response(status=202, body=text, content_type="application/json", headers=headers)
