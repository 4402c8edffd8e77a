"""The handler of the logs that workers send: `POST /logs`."""

from __future__ import annotations

from typing import Annotated

import structlog
from aiohttp import web
from msgspec import Meta
from redis.exceptions import RedisError

from headway.contracts import encode
from headway.details import MAX_APPENDS_BYTES, MAX_APPENDS_PER_REQUEST, MAX_LOG_BYTES, LogAppend

from ...runtime.auth import require_report_key
from ...runtime.errors import ServiceUnavailable, UnprocessableContent
from ...runtime.request import JSON, bearer_token, decode_body, read_body
from ...runtime.settings import ReloadingFile
from .store import LogStore

log: structlog.stdlib.BoundLogger = structlog.get_logger()

AppendList = Annotated[list[LogAppend], Meta(min_length=1, max_length=MAX_APPENDS_PER_REQUEST)]
RETRY_AFTER_S = 1


class LogHandler:
    """Authorizes appends to logs, applies them, and answers with verdicts."""

    def __init__(self, store: LogStore, keys: ReloadingFile[tuple[str, ...]]) -> None:
        self._store = store
        self._keys = keys

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the internal listener."""
        return [web.post("/logs", self.post)]

    async def post(self, request: web.Request) -> web.Response:
        """Apply a list of appends and answer with their verdicts."""
        require_report_key(bearer_token(request), self._keys.value)
        appends = decode_appends(await read_body(request, MAX_APPENDS_BYTES))
        try:
            verdicts = await self._store.append(appends)
        except (RedisError, OSError) as error:
            log.warning("logs_not_confirmed", error=type(error).__name__, count=len(appends))
            raise ServiceUnavailable(
                "The logs are unavailable; send them again.", retry_after_s=RETRY_AFTER_S
            ) from error
        return web.Response(body=encode(verdicts), content_type=JSON)


def decode_appends(body: bytes) -> list[LogAppend]:
    """Decode a list of appends.

    Raises:
        HTTPProblem: the body is not valid; the error names the element and the field.
    """
    appends: list[LogAppend] = decode_body(body, AppendList)
    for index, append in enumerate(appends):
        if len(append.text) * 4 > MAX_LOG_BYTES and len(append.text.encode()) > MAX_LOG_BYTES:
            message = f"Expected a text of at most {MAX_LOG_BYTES} bytes."
            raise UnprocessableContent(message, field=f"[{index}].text")
    return appends
