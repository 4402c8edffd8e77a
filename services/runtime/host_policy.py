"""The names of a public listener, against DNS rebinding (https://en.wikipedia.org/wiki/DNS_rebinding).

A page of another site can let its own name point to this machine. Its requests then have the same origin as the page:
the browser sends no Origin header with a GET, and lets the page read the response. Only the Host header, which has the
page's name, tells them apart. No other site can have an IP address of this machine, or `localhost`, as its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from .errors import Forbidden
from .middleware import Handler

LOCAL_NAME = "localhost"
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[^:\[\]]+))(?::\d*)?", re.IGNORECASE)


class HostPolicy:
    """Accepts requests to an IP address, to `localhost` and to the hosts of these origins, on any port."""

    def __init__(self, origins: Iterable[str]) -> None:
        names = (urlsplit(origin).hostname or "" for origin in origins)
        self._names = frozenset((LOCAL_NAME, *(name.removesuffix(".") for name in names)))

    def install(self, app: web.Application) -> None:
        """Apply the policy to all routes of an application."""
        app.middlewares.append(self._middleware)

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._is_allowed(request):
            raise Forbidden(
                "While DASHBOARD_OPEN is true, the Host header must be an IP address, localhost, or a name from "
                "SUBMITTER_URL or ALLOWED_ORIGINS. To use another name, add its origin, such as http://jobs.lan:8080, "
                "to ALLOWED_ORIGINS.",
                field="Host",
                code="host_not_allowed",
            )
        return await handler(request)

    def _is_allowed(self, request: web.Request) -> bool:
        hosts = request.headers.getall("Host", ())
        if len(hosts) != 1 or not self._is_known(hosts[0]):
            return False
        # An absolute request target replaces the header: https://www.rfc-editor.org/rfc/rfc9112.html#section-3.2.2
        return request.host == hosts[0] or self._is_known(f"[{request.host}]" if ":" in request.host else request.host)

    def _is_known(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = (match["ipv6"] or match["name"]).lower().removesuffix(".")
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
