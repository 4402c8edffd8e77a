"""A submitter whose operators act on jobs, with queues in memory and a fake of the notifier's internal listener."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec.structs import replace

from headway.azure.job_queue import JobQueue
from headway.contracts import ENDED, JobMessage, JobStatus, Json, Timestamp, encode
from headway.details import KeptJob
from headway.labels import NO_LABELS, JobFilter
from headway.message_codec import decode_message, encode_message
from headway.tokens import ListGrant, TokenSigner, TokenVerifier, make_keys
from services.runtime.errors import problem_response
from services.runtime.settings import ReloadingFile, read_keys
from services.runtime.wakeup_client import WakeupClient
from services.submitter.job_sender import JobSender
from services.submitter.links import Links
from services.submitter.operations.auth import OperatorAuth
from services.submitter.operations.handlers import InternalOperationsHandler, OperationsHandler
from services.submitter.operations.job_records import JobRecords
from services.submitter.operations.poison import PoisonedJobs
from services.submitter.operations.poison_handlers import PoisonHandler
from services.submitter.operations.run_again import JobRerunner
from services.submitter.submissions import SubmissionClient
from tests.unit.headway.azure.memory_queue import MemoryQueue
from tests.unit.services.runtime.http_app import Client, read_problem, serve
from tests.unit.services.submitter.callers import caller_auth, submitter_settings

Answer = tuple[int, dict[str, Any]]


class FakeNotifier:
    """The notifier's internal listener: it keeps records and submissions, and can be unavailable."""

    def __init__(self) -> None:
        self.records: dict[UUID, KeptJob] = {}
        self.submissions: list[dict[str, Any]] = []
        self.status = 0  # of every answer, whose body is that of a proxy; 0: it answers properly
        self.closes = False  # whether it closes every connection

    def keep(self, job: JobMessage, status: JobStatus = "failed", **changes: Any) -> UUID:
        """Keep the record of a job and its message."""
        snapshot = {"submitted_at": Timestamp(1000), "max_attempts": job.max_attempts or 5, "started_at": None}
        record = KeptJob(
            status=status,
            generation=job.generation,
            kind=job.kind,
            labels=job.labels or NO_LABELS,
            message=encode_message(job),
            snapshot=Json(encode({**snapshot, **changes.pop("snapshot", {})})),
        )
        self.records[job.id] = replace(record, **changes)
        return job.id

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handle a request."""
        assert request.headers["Authorization"] == "Bearer first"
        if self.closes:
            assert request.transport is not None
            request.transport.close()
        if self.status:
            return web.Response(status=self.status, text="<html>")
        if request.path == "/submissions":
            self.submissions += msgspec.json.decode(await request.read())
            return web.Response(status=204)
        record = self.records.get(job_id := UUID(request.match_info["path"].removeprefix("jobs/")))
        if record is None:
            return problem_response(404, "unknown", "This job has no record.")
        if request.method == "GET":
            return web.Response(body=encode(record), content_type="application/json")
        assert request.method == "DELETE"
        if record.status not in ENDED:
            return problem_response(409, "not_ended", "The job has not ended; cancel it first.")
        self.records[job_id] = replace(record, message=None)
        return web.Response(status=204)


@dataclass
class OperatedJobs:
    """The submitter's two listeners, its queues, and the notifier."""

    public: Client
    internal: Client
    notifier: FakeNotifier
    jobs: MemoryQueue
    poison: MemoryQueue
    poisoned: PoisonedJobs
    signer: TokenSigner
    headers: dict[str, str] = field(default_factory=lambda: {"Authorization": "Bearer ops"})

    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *, internal: bool = False
    ) -> Answer:
        """Send a request as an operator; return the status, and the body of the answer or the problem."""
        client = self.internal if internal else self.public
        credentials = {"Authorization": "Bearer second"} if internal else self.headers
        sent = None if body is None else body if isinstance(body, bytes) else encode(body)
        content = {} if sent is None else {"Content-Type": "application/json"}
        headers = {**credentials, **content, **(headers or {})}
        async with client.request(method, path, data=sent, headers=headers) as response:
            if response.status >= 400:
                return response.status, await read_problem(response)
            text = await response.read()
            return response.status, msgspec.json.decode(text) if text else {}

    def token(self, job_filter: JobFilter, *scope: str) -> dict[str, str]:
        """Return the headers of an operator with a list token."""
        now = Timestamp.now()
        grant = ListGrant(
            filter=job_filter, issued_at=now, expires_at=now.after(60), scope=frozenset({"list", "operate", *scope})
        )
        return {"Authorization": f"Bearer {self.signer.sign(grant)}"}

    @property
    def sent(self) -> list[JobMessage]:
        """The messages that were sent to the jobs queue."""
        return [decode_message(text) for text in self.jobs.sent]


@asynccontextmanager
async def operated_jobs(folder: Path, *poison: JobMessage | str, **env: str) -> AsyncIterator[OperatedJobs]:
    """Serve a submitter with these messages on its poison queue."""
    make_keys(folder)
    (folder / "report.key").write_text("first\nsecond\n")
    settings = submitter_settings(folder, TOKEN_KEY_FILE=str(folder / "token.pem"), **env)
    signer = ReloadingFile(folder / "token.pem", TokenSigner)
    keys = ReloadingFile(folder / "report.key", read_keys)
    app, notifier = web.Application(), FakeNotifier()
    app.router.add_route("*", "/{path:.*}", notifier.handle)
    jobs = MemoryQueue()
    poisoned = MemoryQueue(*(one if isinstance(one, str) else encode_message(one) for one in poison))
    async with AsyncExitStack() as stack:
        url = str((await stack.enter_async_context(TestServer(app))).make_url("/"))
        wakeups = await stack.enter_async_context(WakeupClient.connect(None, "jobs"))
        submissions = await stack.enter_async_context(SubmissionClient.connect(url, keys, "jobs", wakeups))
        records = await stack.enter_async_context(JobRecords.connect(url, keys))
        queue = cast(JobQueue, jobs)
        sender = JobSender(settings, Links(settings), queue, signer, submissions)
        poison_jobs = PoisonedJobs(queue, cast(JobQueue, poisoned))
        rerunner = JobRerunner(records, poison_jobs, queue, submissions, sender, settings.job_ttl_s)
        auth = OperatorAuth(caller_auth(settings), ReloadingFile(folder / "token.pub.pem", TokenVerifier))
        handler = OperationsHandler(auth, rerunner, records, poison_jobs, sender)
        routes = [*handler.routes(), *PoisonHandler(auth, poison_jobs).routes()]
        internal = InternalOperationsHandler(keys, rerunner, sender).routes()
        yield OperatedJobs(
            await stack.enter_async_context(serve(*routes)),
            await stack.enter_async_context(serve(*internal)),
            notifier,
            jobs,
            poisoned,
            poison_jobs,
            signer.value,
        )


def message(**fields: Any) -> JobMessage:
    """Return the message of a new job."""
    return JobMessage(id=uuid4(), kind="export", **fields)
