"""The submitter's parts, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headway.tokens import TokenSigner
from services.azure_queue import JobQueue
from services.chassis import Service
from services.settings import WatchedFile, read_keys
from services.submitter.api import Api
from services.submitter.pages import Pages
from services.submitter.settings import SubmitterSettings


@asynccontextmanager
async def submitter(settings: SubmitterSettings) -> AsyncIterator[Service]:
    """Open the submitter's resources and hand its parts to the chassis."""
    signer = WatchedFile(settings.token_key_file, TokenSigner)
    keys = None if settings.submitter_api_keys is None else WatchedFile(settings.submitter_api_keys, read_keys)
    async with JobQueue.connect(
        settings.queue_connection_string, settings.queue_name, settings.queue_api_version
    ) as queue:
        api = Api(settings, queue, signer, keys)
        yield Service(public=[*Pages(settings).routes(), *api.routes()], public_port=settings.port)
