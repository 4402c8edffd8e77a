"""The dashboard beside a notifier that sends a test's list of jobs, and answers with the test's numbers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from headway.contracts import Timestamp
from tests.browser.dashboard import OPERATOR_SCOPE
from tests.browser.list_site import LIFETIME_S, ListSite, unsigned_token
from tests.web_server import serve

HOURS = 24
HOUR_S = 3600


class DashboardListSite(ListSite):
    """Serves the dashboard to an operator without a key."""

    def reset(self) -> None:
        """Forget all jobs and numbers."""
        super().reset()
        self.sign_in(OPERATOR_SCOPE)
        self.workers = 1
        numbers = dict.fromkeys(("waiting", "running", "retrying", "failed_24h"), 0)
        self.about: dict[str, Any] = {**numbers, "queue": None, "oldest": None}
        self.ended = {"submitted": 0, "succeeded": 0, "failed": 0, "cancelled": 0}  # in the current hour
        self.errors: dict[str, dict[str, str]] = {}  # the true errors, by the job's id
        self.details: list[str] = []  # the ids of the jobs whose details were requested
        self.queries: list[dict[str, str]] = []  # of lists that were read over HTTP

    def sign_in(self, scope: str) -> None:
        """Set the scope that the session of a page gets."""
        now_s = Timestamp.now() / 1000
        self.token = unsigned_token({"filter": {}, "iat": now_s, "exp": now_s + LIFETIME_S, "scope": scope})

    def app(self) -> web.Application:
        """Return the application."""
        app = super().app()
        app.router.add_post("/tokens", self._token)
        app.router.add_get("/live/kinds", self._kinds)
        app.router.add_get("/live/workers", self._workers)
        app.router.add_get("/live/jobs/{id}/details", self._details)
        app.router.add_get("/poison", self._poison)
        return app

    async def _page(self, request: web.Request) -> web.Response:
        self.queries.append(dict(request.query))
        response = await super()._page(request)
        if response.status != 200:
            return response
        return web.json_response(json.loads(response.text or "") | {"about": self.about})

    async def _kinds(self, _request: web.Request) -> web.Response:
        hour = Timestamp.now() // (1000 * HOUR_S)
        none = dict.fromkeys(self.ended, 0)
        starts = [str(Timestamp((hour - HOURS + 1 + number) * 1000 * HOUR_S)) for number in range(HOURS)]
        hours = [{"hour": start, **(self.ended if start == starts[-1] else none)} for start in starts]
        statistics = {"schema": None, "rate_per_h": 0, "failure_share": None, "duration_s": None}
        kind = {"kind": "export", "workers": self.workers, "hours": hours, **statistics}
        return web.json_response({"now": self.now(), "kinds": [kind], "complete": self.complete})

    async def _workers(self, _request: web.Request) -> web.Response:
        return web.json_response({"now": self.now(), "workers": []})

    async def _details(self, request: web.Request) -> web.Response:
        job_id = request.match_info["id"]
        self.details.append(job_id)
        details: dict[str, Any] = {"labels": {}, "error": self.errors.get(job_id), "attempts": [], "steps": []}
        details |= {"payload": None, "checkpoint": None}
        return web.json_response(details)

    async def _poison(self, _request: web.Request) -> web.Response:
        return web.json_response({"jobs": [], "next": None, "complete": True})


@asynccontextmanager
async def run_dashboard_list_site(port: int) -> AsyncIterator[DashboardListSite]:
    """Run a site until the block ends."""
    site = DashboardListSite(f"http://127.0.0.1:{port}")
    async with serve(web.AppRunner(site.app(), shutdown_timeout=0), port):
        yield site
