"""The pages of the submitter beside a notifier that sends a test's list of jobs."""

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
from tests.browser.job_states import NOTHING, after
from tests.waiting import wait_until
from tests.web_server import serve

LIFETIME_S = 3600
CLAIMS = {"filter": {"owner": "ada"}, "exp": Timestamp.now() / 1000 + LIFETIME_S, "scope": "list watch cancel"}


def unsigned_token(claims: dict[str, Any]) -> str:
    """Return a token whose signature no server accepts; a page reads the claims only."""
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.x"


class ListSite:
    """Serves the pages, and one list of jobs, the newest first, over WebSocket and HTTP."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.token = unsigned_token(CLAIMS)
        self.page = ""  # the HTML at /embedding
        self.reset()

    def reset(self) -> None:
        """Forget all jobs, and accept connections."""
        self.answers = True  # whether the notifier accepts connections
        self.complete = True
        self.jobs: list[dict[str, Any]] = []  # the oldest first
        self.watched: set[str] = set()  # the ids of the jobs that the page has watched by their ids
        self.cancelled: list[str] = []
        self.ahead_s = 0  # how far the clock of the server is ahead of the browser's
        self.filters: list[dict[str, Any]] = []  # of the lists that were requested
        self._lists: dict[web.WebSocketResponse, tuple[str, int]] = {}  # id and limit

    def app(self) -> web.Application:
        """Return the application."""
        url = Url(self.origin)
        settings = SubmitterSettings(submitter_url=url, live_url=url, token_key_file=Path("token.pem"))
        app = web.Application()
        embedding = web.get("/embedding", self._embedding)
        live = [web.get("/live", self._live), web.get("/live/jobs", self._page), web.post("/live/jobs", self._refuse)]
        app.add_routes([*Pages(Links(settings)).routes(), embedding, *live, web.get("/jobs-token", self._token)])
        return app

    def now(self) -> str:
        """Return the server's time."""
        return str(Timestamp.now().after(self.ahead_s))

    async def add(self, count: int = 1, **fields: Any) -> None:
        """Add jobs, and push those that enter and leave the head of the list."""
        before = len(self.jobs)
        for number in range(before, before + count):
            job_id = f"00000000-0000-4000-8000-{number:012}"
            times = {"submitted_at": after(number / 1000 - 7200), "expires_at": after(LIFETIME_S)}
            job = {"id": job_id, "kind": "export", "name": f"Export {number}", "version": 1, "generation": 0}
            self.jobs.append({**NOTHING, **job, "max_attempts": 5, **fields, **times})
        for socket, (list_id, limit) in list(self._lists.items()):
            entered = [job["id"] for job in self.jobs[before:][-limit:][::-1]]
            left = [job["id"] for job in self.jobs[max(0, before - limit) : before][: max(0, len(self.jobs) - limit)]]
            kept = {job["id"] for job in self.jobs[-limit:]}
            await self._send(socket, {"entered": entered, "left": [id_ for id_ in left if id_ not in kept]}, list_id)
            await self._send_jobs(socket, self.jobs[before:][-limit:])

    async def show(self, number: int, **fields: Any) -> None:
        """Send the next snapshot of a job."""
        self.jobs[number] |= {"version": self.jobs[number]["version"] + 1, **fields}
        for socket in list(self._lists):
            await self._send_jobs(socket, [self.jobs[number]])

    async def leave(self, number: int) -> None:
        """Push that a job no longer matches the filter of the list."""
        for socket, (list_id, _) in list(self._lists.items()):
            await self._send(socket, {"entered": [], "left": [self.jobs[number]["id"]]}, list_id)

    async def send_error(self, **error: Any) -> None:
        """Send an error about the list, or about the job that it names, as soon as a page has connected."""
        await wait_until(lambda: self._lists)
        for socket, (list_id, _) in list(self._lists.items()):
            about = {} if "job_id" in error else {"list_id": list_id}
            await socket.send_json({"error": {"message": "", **about, **error}})

    async def disconnect(self) -> None:
        """Close all connections, and accept no new ones."""
        self.answers = False
        for socket in list(self._lists):
            await socket.close()

    async def _send(self, socket: web.WebSocketResponse, change: dict[str, Any], list_id: str) -> None:
        await socket.send_json({"list": {"id": list_id, "complete": self.complete, **change}})

    async def _send_jobs(self, socket: web.WebSocketResponse, jobs: list[dict[str, Any]]) -> None:
        for job in jobs:
            await socket.send_json({"job": job})

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if not self.answers:
            return await self._refuse(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"hello": {"now": self.now(), "silence_s": LIFETIME_S}})
        try:
            async for frame in socket:
                await self._on_message(socket, frame.json())
        finally:
            self._lists.pop(socket, None)
        return socket

    async def _on_message(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        if "list" in message:
            list_id, limit = message["list_id"], message["limit"]
            self._lists[socket] = (list_id, limit)
            self.filters.append(message["filter"])
            head = self.jobs[-limit:][::-1]
            following = str(len(self.jobs) - limit) if len(self.jobs) > limit else None
            await self._send(socket, {"jobs": [job["id"] for job in head], "next": following}, list_id)
            await self._send_jobs(socket, head)
        if "watch" in message:
            self.watched.add(message["job_id"])
        if "cancel" in message:
            self.cancelled.append(message["cancel"])
        self.watched.discard(message.get("unwatch", ""))

    async def _page(self, request: web.Request) -> web.Response:
        if not self.answers:
            return await self._refuse(request)
        limit, until = int(request.query["limit"]), request.query.get("until", "9999")
        end = int(request.query.get("cursor", sum(job["submitted_at"] < until for job in self.jobs)))
        start = max(0, end - limit)
        page = {"jobs": self.jobs[start:end][::-1], "next": str(start) if start else None, "complete": self.complete}
        return web.json_response({"now": self.now(), **page})

    async def _token(self, _request: web.Request) -> web.Response:
        return web.json_response({"token": self.token})

    async def _embedding(self, _request: web.Request) -> web.Response:
        return web.Response(text=self.page, content_type="text/html")

    async def _refuse(self, _request: web.Request) -> web.Response:
        return web.Response(status=502)


@asynccontextmanager
async def run_list_site(port: int) -> AsyncIterator[ListSite]:
    """Run a site until the block ends."""
    site = ListSite(f"http://127.0.0.1:{port}")
    async with serve(web.AppRunner(site.app(), shutdown_timeout=0), port):
        yield site
