"""The dashboard of a submitter with API keys, which issues real tokens, beside a notifier that fails on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from headway.contracts import Timestamp
from headway.tokens import TokenSigner, TokenVerifier, make_keys
from services.runtime.errors import ServiceUnavailable, Unauthorized
from services.runtime.middleware import Handler, error_middleware
from services.runtime.request import bearer_token
from services.runtime.settings import ReloadingFile, Url
from services.submitter.api_keys import read_api_keys
from services.submitter.caller_auth import CallerAuth
from services.submitter.issue_token import IssueTokenHandler
from services.submitter.links import Links
from services.submitter.pages import Pages
from services.submitter.sessions import SessionAuth
from services.submitter.settings import SubmitterSettings
from tests.web_server import serve

KEYS = "app\nops operate name=alice\n"
ABOUT = {"waiting": 1_000_000, "running": 16, "failed_24h": 23, "queue": 1_000_016, "retrying": 3}


class DashboardSite:
    """Serves the dashboard, tokens for the keys `app` and `ops`, and lists without jobs."""

    def __init__(self, folder: Path, origin: str) -> None:
        self.origin = origin
        self.url = f"{origin}/dashboard"
        self.folder = folder
        make_keys(folder)
        self.reset()

    def reset(self) -> None:
        """Accept the keys, and answer."""
        self.write_keys(KEYS)
        self.redis_is_up = True
        self.refused: set[str] = set()  # tokens
        self.answer: dict[str, Any] = {"jobs": [], "next": None, "complete": True, "about": ABOUT}
        self.requests: list[str] = []  # paths

    def write_keys(self, text: str) -> None:
        """Replace the API keys."""
        (self.folder / "api-keys").write_text(text)

    def app(self) -> web.Application:
        """Return the application."""
        url = Url(self.origin)
        settings = SubmitterSettings(submitter_url=url, live_url=url, token_key_file=self.folder / "token.pem")
        keys = ReloadingFile(self.folder / "api-keys", read_api_keys)
        sessions = SessionAuth(CallerAuth(settings, keys), ReloadingFile(self.folder / "token.pub.pem", TokenVerifier))
        tokens = IssueTokenHandler(ReloadingFile(self.folder / "token.pem", TokenSigner), sessions)
        app = web.Application(middlewares=[self._note, error_middleware])
        app.add_routes([*Pages(Links(settings)).routes(), *tokens.routes()])
        app.add_routes([web.get("/live/{path:.*}", self._live), web.get("/poison", self._live)])
        return app

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.requests.append(request.path)
        return await handler(request)

    async def _live(self, request: web.Request) -> web.Response:
        token = bearer_token(request)
        if token is None or token in self.refused:
            raise Unauthorized("The token has expired.", code="token_expired")
        if not self.redis_is_up:
            raise ServiceUnavailable("Redis is unavailable.", retry_after_s=1)
        fleet: dict[str, Any] = {"kinds": [], "workers": [], "groups": []}
        return web.json_response({"now": str(Timestamp.now()), **fleet, **self.answer})


@asynccontextmanager
async def run_dashboard_site(folder: Path, port: int) -> AsyncIterator[DashboardSite]:
    """Run a site until the block ends."""
    site = DashboardSite(folder, f"http://127.0.0.1:{port}")
    async with serve(web.AppRunner(site.app(), shutdown_timeout=0), port):
        yield site
