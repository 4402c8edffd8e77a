"""The pages: static files, the same for every job, and the one line of script that names the notifier."""

from __future__ import annotations

from pathlib import Path

import msgspec
from aiohttp import web

from services.problems import NotFound
from services.submitter.settings import SubmitterSettings

PAGES = Path(__file__).parent / "pages"
CLIENT = Path(__file__).parents[2] / "clients" / "browser"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Pages:
    """Serves the home page, the job's page and what they load."""

    def __init__(self, settings: SubmitterSettings) -> None:
        self._live_url = settings.live_url.rstrip("/")
        files = [path for folder in (PAGES, CLIENT) for path in folder.iterdir() if path.suffix in TYPES]
        self._files = {path.name: path for path in files}

    def routes(self) -> list[web.RouteDef]:
        """Return the pages' routes."""
        return [
            web.get("/", self.home),
            web.get("/jobs/{id}", self.job),
            web.get("/assets/live-url.js", self.live_url),
            web.get("/assets/{name}", self.asset),
        ]

    async def home(self, _request: web.Request) -> web.Response:
        """Serve the page with the button."""
        return self._serve("index.html")

    async def job(self, _request: web.Request) -> web.Response:
        """Serve the job's page, which reads the token behind the `#` and watches by itself."""
        return self._serve("job.html")

    async def live_url(self, _request: web.Request) -> web.Response:
        """Tell the page's script where the notifier is."""
        script = f"export const liveUrl = {msgspec.json.encode(self._live_url).decode()};\n"
        return self._respond(script.encode(), TYPES[".js"])

    async def asset(self, request: web.Request) -> web.Response:
        """Serve what the pages load."""
        name = request.match_info["name"]
        if name not in self._files or name.endswith(".html"):
            raise NotFound("There is no such file.")
        return self._serve(name)

    def _serve(self, name: str) -> web.Response:
        path = self._files[name]
        return self._respond(path.read_bytes(), TYPES[path.suffix])

    def _respond(self, body: bytes, content_type: str) -> web.Response:
        response = web.Response(body=body, content_type=content_type, charset="utf-8", headers=self._headers())
        response.enable_compression()
        return response

    def _headers(self) -> dict[str, str]:
        live = f"{self._live_url} ws{self._live_url.removeprefix('http')}"
        return {
            "Content-Security-Policy": (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                f"connect-src 'self' {live}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
            ),
            "Cache-Control": "no-cache",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
            "Referrer-Policy": "same-origin",  # with no-referrer a form's own Origin would be `null`
            "X-Content-Type-Options": "nosniff",
        }
