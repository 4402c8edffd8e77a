"""The pages and their assets: static files, the same for every job.

Browsers revalidate the files at stable URLs; the answer is mostly 304. The same files below `/assets/<digest>/` are
immutable. Their URL is in the `Content-Location` of the stable URL. The digest covers all assets, since modules import
each other.
"""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

from headway.contracts import encode

from ..runtime.auth import job_id_from_path
from ..runtime.errors import NotFound
from ..runtime.middleware import Handler
from ..runtime.request import JSON
from .assets import Asset, Assets, is_asset
from .links import Links

IMMUTABLE_MAX_AGE_S = 31_536_000
PUBLIC_ROUTES = ("/assets/{name}", "/assets/{digest}/{name}")  # pages of any origin may load these assets


class Pages:
    """Serves the home page, the job page, the dashboard and their assets."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._assets = Assets(links.live_url, links.trace_url)
        self._page_headers = _page_headers(links)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [
            web.get("/", self.home),
            web.get("/jobs/{id}", self.job),
            web.get("/dashboard", self.dashboard),
            web.get("/dashboard/{view:.*}", self.dashboard),
            web.get("/assets/{name}", self.asset),
            web.get("/assets/{digest}/{name}", self.versioned_asset),
        ]

    async def home(self, request: web.Request) -> web.Response:
        """Serve the home page."""
        return self._page(request, "index.html")

    async def job(self, request: web.Request) -> web.Response:
        """Serve the job page; to a client that accepts JSON but not HTML, serve the job's links."""
        accepted = request.headers.get("Accept", "")
        if JSON not in accepted or "text/html" in accepted:
            return self._page(request, "job.html")
        job_id = job_id_from_path(request)
        body = encode({"id": job_id, "links": self._links.for_job(job_id)})
        headers = {"Cache-Control": "no-cache", "Vary": "Accept"}
        return web.Response(body=body, content_type=JSON, headers=headers)

    async def dashboard(self, request: web.Request) -> web.Response:
        """Serve the dashboard; its script shows the view that the URL names."""
        return self._page(request, "dashboard.html")

    async def asset(self, request: web.Request) -> web.Response:
        """Serve an asset at its stable URL."""
        bundle, name = self._assets.current(), request.match_info["name"]
        return self._serve_asset(request, bundle.files, {"Content-Location": f"/assets/{bundle.digest}/{name}"})

    async def versioned_asset(self, request: web.Request) -> web.Response:
        """Serve an asset at its immutable URL; raise NotFound if the digest is not the current one."""
        bundle = self._assets.current()
        files = bundle.files if request.match_info["digest"] == bundle.digest else {}
        return self._serve_asset(request, files, {"Cache-Control": f"public, max-age={IMMUTABLE_MAX_AGE_S}, immutable"})

    @web.middleware
    async def missing(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Serve a page at an address that does not exist, to a browser; other clients get a problem."""
        try:
            return await handler(request)
        except web.HTTPNotFound:
            if "text/html" not in request.headers.get("Accept", ""):
                raise
        response = self._page(request, "missing.html")
        if response.status != HTTPStatus.NOT_MODIFIED:
            response.set_status(HTTPStatus.NOT_FOUND)
        return response

    def _page(self, request: web.Request, name: str) -> web.Response:
        return self._serve(request, self._assets.current().files[name], self._page_headers)

    def _serve_asset(self, request: web.Request, files: dict[str, Asset], headers: dict[str, str]) -> web.Response:
        name = request.match_info["name"]
        if name not in files or not is_asset(name):
            raise NotFound("This file does not exist.")
        return self._serve(request, files[name], {"Cross-Origin-Resource-Policy": "cross-origin", **headers})

    @staticmethod
    def _serve(request: web.Request, asset: Asset, headers: dict[str, str]) -> web.Response:
        compressed = "gzip" in request.headers.get("Accept-Encoding", "")
        etags = (asset.digest, f"{asset.digest}-gzip")  # of the plain and of the compressed body
        response = web.Response(headers={"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", **headers})
        response.headers.add("Vary", "Accept-Encoding")
        response.etag = etags[compressed]
        if any(tag.value in (*etags, "*") for tag in request.if_none_match or ()):
            response.set_status(304)
            return response
        response.body = asset.compressed if compressed else asset.body
        response.content_type = asset.content_type
        if asset.content_type.startswith("text/"):
            response.charset = "utf-8"
        if compressed:
            response.headers["Content-Encoding"] = "gzip"
        return response


def _page_headers(links: Links) -> dict[str, str]:
    """Return the headers of pages."""
    return {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' "
            f"{links.live_url} {links.socket_url}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "Referrer-Policy": "same-origin",  # with no-referrer, browsers would send a form with `Origin: null`
        "Vary": "Accept",  # the URL of the job page also serves JSON
    }
