"""`POST /jobs/{id}/token`: issues a watch-only token, to share, for a job's token."""

from __future__ import annotations

from typing import Literal

import msgspec
from aiohttp import web
from msgspec import Struct

from headway.tokens import WATCH, TokenSigner, TokenVerifier

from ..runtime.auth import authorize_job
from ..runtime.request import bearer_token, read_json_body
from ..runtime.responses import no_store_json
from ..runtime.settings import ReloadingFile
from .links import Links

MAX_BODY_BYTES = 1024


class ShareRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body: the scope of the new token."""

    scope: Literal["watch"]


class ShareTokenHandler:
    """Issues watch-only tokens. The job's token is enough; no API key is needed."""

    def __init__(
        self, links: Links, signer: ReloadingFile[TokenSigner], verifier: ReloadingFile[TokenVerifier]
    ) -> None:
        self._links = links
        self._signer = signer
        self._verifier = verifier

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [web.post("/jobs/{id}/token", self.share)]

    async def share(self, request: web.Request) -> web.Response:
        """Issue a token for the same job, with the same expiry and without the scope `cancel`."""
        grant = authorize_job(request, bearer_token(request), self._verifier.value.verify)
        share_request = await read_json_body(request, ShareRequest, MAX_BODY_BYTES)
        token = self._signer.value.sign(msgspec.structs.replace(grant, scope=frozenset({WATCH})))
        links = self._links.for_job(grant.job_id, token)
        del links["cancel"]
        return no_store_json({"id": grant.job_id, "token": token, "scope": share_request.scope, "links": links})
