"""The composition of the submitter: its resources, request handlers and background tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files

from headway.tokens import TokenSigner, TokenVerifier

from ..runtime.cors import CorsPolicy
from ..runtime.host_policy import HostPolicy
from ..runtime.openapi import openapi_route
from ..runtime.queue_metrics import monitor_queue_depth
from ..runtime.service import ServiceSpec
from ..runtime.settings import ReloadingFile, read_keys
from ..runtime.tracing import open_tracing
from ..runtime.wakeup_client import WakeupClient
from .api_keys import read_api_keys
from .caller_auth import CallerAuth
from .issue_token import IssueTokenHandler
from .job_sender import JobSender
from .links import Links
from .operations.composition import operations
from .pages import PUBLIC_ROUTES, Pages
from .request_spans import traced
from .sessions import SessionAuth
from .settings import SubmitterSettings
from .share_token import ShareTokenHandler
from .submissions import SubmissionClient
from .submit import InternalSubmitHandler, SubmitHandler

OPENAPI = files(__package__).joinpath("openapi.yaml")


@asynccontextmanager
async def submitter(settings: SubmitterSettings) -> AsyncIterator[ServiceSpec]:
    """Open the submitter's resources and yield the specification of its service."""
    links = Links(settings)
    signer = ReloadingFile(settings.token_key_file, TokenSigner)
    verifier = _verifier(settings)
    key_file = settings.submitter_api_keys
    caller_auth = CallerAuth(settings, None if key_file is None else ReloadingFile(key_file, read_api_keys))
    session_auth = SessionAuth(caller_auth, verifier)
    report_keys = None if settings.report_key_file is None else ReloadingFile(settings.report_key_file, read_keys)
    notifier_url, queue_name = settings.notifier_internal_url, settings.queue_name
    async with (
        open_tracing(settings) as tracer,
        settings.queue() as queue,
        WakeupClient.connect(notifier_url, queue_name) as wakeups,
        SubmissionClient.connect(notifier_url, report_keys, queue_name, wakeups) as submissions,
    ):
        sender = JobSender(settings, links, queue, signer, submissions, tracer)
        pages = Pages(links)
        handlers = (
            pages,
            SubmitHandler(session_auth, sender),
            IssueTokenHandler(signer, session_auth),
            ShareTokenHandler(links, signer, verifier),
        )
        routes = [*(route for handler in handlers for route in handler.routes()), openapi_route(OPENAPI)]
        async with operations(settings, caller_auth, verifier, report_keys, queue, submissions, sender) as operating:
            yield ServiceSpec(
                public=traced([*routes, *operating.public], tracer),
                public_port=settings.port,
                internal=traced([*InternalSubmitHandler(report_keys, sender).routes(), *operating.internal], tracer),
                cors=CorsPolicy(settings.origins, public_routes=PUBLIC_ROUTES),
                hosts=HostPolicy(settings.origins) if settings.dashboard_open else None,
                middlewares=[pages.missing],
                tasks={
                    "wakeups": wakeups.run,
                    "submissions": submissions.run,
                    "operations": operating.clean_poison_queue,
                    "queue_depth": partial(monitor_queue_depth, queue),
                },
            )


def _verifier(settings: SubmitterSettings) -> ReloadingFile[TokenVerifier]:
    """Return a verifier with the configured public keys, by default with the public half of the signing key."""
    if settings.token_public_key_file is not None:
        return ReloadingFile(settings.token_public_key_file, TokenVerifier)
    return ReloadingFile(settings.token_key_file, lambda pem: TokenVerifier(TokenSigner(pem).public_pem))
