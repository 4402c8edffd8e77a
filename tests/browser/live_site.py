"""The pages of the submitter beside a notifier that sends the snapshots of a test."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from headway.contracts import Timestamp
from services.runtime.settings import Url
from services.submitter.links import Links
from services.submitter.pages import Pages
from services.submitter.settings import SubmitterSettings
from tests.web_server import serve

LIFETIME_S = 3600


class LiveSite:
    """Serves the pages, and sends snapshots of jobs to their watchers over WebSockets only."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.answers = True  # whether the notifier accepts connections
        self._snapshots: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, dict[str, Any]] = {}
        self._sockets: set[web.WebSocketResponse] = set()
        self._last_job = 0
        self.jobs_before = 0  # in the queue, before each job
        self.positions: list[str] = []  # the ids of the jobs whose position was requested
        self.page = ""  # the HTML at /embedding
        self.cancelled: list[str] = []  # the ids of the jobs whose cancellation was requested

    def app(self) -> web.Application:
        """Return the application."""
        url = Url(self.origin)
        settings = SubmitterSettings(submitter_url=url, live_url=url, token_key_file=Path("token.pem"))
        app = web.Application()
        app.add_routes([*Pages(Links(settings)).routes(), web.get("/live", self._live)])
        app.router.add_get("/live/jobs/{id}/position", self._position)
        app.router.add_post("/live/{path:.*}", self._refuse)
        app.router.add_get("/embedding", self._embedding)
        return app

    def add_job(self, scope: str = "watch cancel", **fields: Any) -> tuple[str, str]:
        """Add a job whose first snapshot has these fields; return its id and a token."""
        self._last_job += 1
        job_id = f"00000000-0000-4000-8000-{self._last_job:012}"
        now = Timestamp.now()
        self._snapshots[job_id] = {
            "id": job_id,
            "kind": "thumbnails",
            "status": "queued",
            "version": 0,
            "generation": 0,
            "attempt": 1,
            "max_attempts": 5,
            "progress": None,
            "result": None,
            "error": None,
            "cancel_requested": False,
            "submitted_at": str(now),
            "started_at": None,
            "updated_at": None,
            "finished_at": None,
            "due_at": None,
            "lease_until": None,
            "expires_at": str(now.after(LIFETIME_S)),
            **fields,
        }
        claims = {
            "sub": job_id,
            "kind": "thumbnails",
            "iat": now / 1000,
            "exp": now / 1000 + LIFETIME_S,
            "scope": scope,
        }
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        return job_id, f"e30.{payload}.x"

    async def show(self, job_id: str, **fields: Any) -> int:
        """Send the job's next snapshot, with these fields changed; return its version."""
        version: int = self._snapshots[job_id]["version"] + 1
        self._snapshots[job_id] |= {"version": version, **fields}
        await self._send_all({"job": self._snapshots[job_id]})
        return version

    async def send_error(self, job_id: str, code: str, message: str = "") -> None:
        """Send an error about a job."""
        await self._send_all({"error": {"code": code, "message": message, "job_id": job_id}})

    async def send_hello(self, after_s: float = 0) -> None:
        """Send a sign of life, as if this time had passed."""
        await self._send_all(self._hello(after_s))

    async def disconnect(self) -> None:
        """Close all connections, and accept no new ones."""
        self.answers = False
        for socket in list(self._sockets):
            await socket.close()

    @staticmethod
    def _hello(after_s: float = 0) -> dict[str, Any]:
        return {"hello": {"now": str(Timestamp.now().after(after_s)), "silence_s": LIFETIME_S}}

    async def _send_all(self, message: dict[str, Any]) -> None:
        for socket in list(self._sockets):
            await socket.send_json(message)

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if not self.answers:
            return await self._refuse(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json(self._hello())
        self._sockets.add(socket)
        try:
            async for frame in socket:
                message = frame.json()
                if "cancel" in message:
                    self.cancelled.append(message["cancel"])
                if "watch" in message:
                    payload = message["watch"].split(".")[1]
                    job_id = json.loads(base64.urlsafe_b64decode(payload + "=="))["sub"]
                    await socket.send_json({"job": self._snapshots[job_id]})
        finally:
            self._sockets.discard(socket)
        return socket

    async def _position(self, request: web.Request) -> web.Response:
        self.positions.append(request.match_info["id"])
        return web.json_response({"now": str(Timestamp.now()), "before": self.jobs_before, "complete": True})

    async def _embedding(self, _request: web.Request) -> web.Response:
        return web.Response(text=self.page, content_type="text/html")

    async def _refuse(self, _request: web.Request) -> web.Response:
        return web.Response(status=502)


@asynccontextmanager
async def run_live_site(port: int) -> AsyncIterator[LiveSite]:
    """Run a site until the block ends."""
    site = LiveSite(f"http://127.0.0.1:{port}")
    async with serve(web.AppRunner(site.app(), shutdown_timeout=0), port):
        yield site
