"""The composition of what operators do: its resources, request handlers and background task."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from msgspec import Struct

from headway.azure.job_queue import JobQueue
from headway.tokens import TokenVerifier

from ...runtime.settings import ReloadingFile
from ..caller_auth import CallerAuth
from ..job_sender import JobSender
from ..settings import SubmitterSettings
from ..submissions import SubmissionClient
from .auth import OperatorAuth
from .bulk import BulkHandler
from .handlers import InternalOperationsHandler, OperationsHandler
from .job_records import JobRecords
from .poison import PoisonedJobs
from .poison_handlers import PoisonHandler
from .run_again import JobRerunner


class Operations(Struct, frozen=True):
    """The routes of the public and of the internal listener, and the background task."""

    public: list[web.RouteDef]
    internal: list[web.RouteDef]
    clean_poison_queue: Callable[[], Awaitable[object]]


@asynccontextmanager
async def operations(
    settings: SubmitterSettings,
    caller_auth: CallerAuth,
    verifier: ReloadingFile[TokenVerifier],
    report_keys: ReloadingFile[tuple[str, ...]] | None,
    queue: JobQueue,
    submissions: SubmissionClient,
    sender: JobSender,
) -> AsyncIterator[Operations]:
    """Open the resources and yield the routes and the task."""
    async with (
        settings.poison_queue() as poison_queue,
        JobRecords.connect(settings.notifier_internal_url, report_keys) as records,
    ):
        auth = OperatorAuth(caller_auth, verifier)
        poison = PoisonedJobs(queue, poison_queue)
        rerunner = JobRerunner(records, poison, queue, submissions, sender, settings.job_ttl_s)
        yield Operations(
            public=[
                *OperationsHandler(auth, rerunner, records, poison, sender).routes(),
                *PoisonHandler(auth, poison).routes(),
                *BulkHandler(auth, records, sender).routes(),
            ],
            internal=InternalOperationsHandler(report_keys, rerunner, sender).routes(),
            clean_poison_queue=poison.run,
        )
