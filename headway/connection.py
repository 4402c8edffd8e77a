"""One notifier's socket and the jobs watched over it.

A snapshot is always the whole state, so one that is lost, repeated or skipped does no harm: versions only rise, and
after a reconnect the newest comes by itself. Where a proxy lets no socket through, each watch polls instead.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import aiohttp
import msgspec
from msgspec import Struct

from headway.backoff import full_jitter_s
from headway.calls import BACKOFF_BASE_S, BACKOFF_CAP_S, BUSY, LASTING, Problem, call, trouble_of
from headway.contracts import JobSnapshot, Timestamp, decode, encode

log = logging.getLogger("headway.client")

HELLO_S = 5.0  # only a hello proves a server: a proxy opens sockets, too, while nobody is behind it
HEARTBEAT_S = 20.0
CLOSE_S = 1.0
RETURN_S = 60.0  # between two tries to come back from polling
WAIT_S = 25  # how long a poll is held
PAUSE_S = 1.0  # between two polls that bring nothing: not every proxy holds one
POLICY, TOO_BIG, OVERLOADED = 1008, 1009, 1013
OVERLOADED_FAILURES = 5  # an overloaded server gets the rest at once that five failures earn


class _Hello(Struct):
    now: Timestamp


class _Error(Struct):
    code: str
    message: str
    job_id: UUID | None = None


class _Message(Struct):
    """What the server says: one of these."""

    hello: _Hello | None = None
    job: JobSnapshot | None = None
    error: _Error | None = None


class Watched:
    """One job, the newest that is known of it, and how many watch it."""

    def __init__(self, job_id: UUID, token: str) -> None:
        self.id = job_id
        self.token = token
        self.watchers = 0
        self.version = -1
        self.snapshot: JobSnapshot | None = None
        self.trouble: Exception | None = None
        self._stirred = asyncio.Event()

    def show(self, snapshot: JobSnapshot) -> None:
        """Take a snapshot, if it is a newer one."""
        if snapshot.version > self.version:
            self.version, self.snapshot = snapshot.version, snapshot
            self.stir()

    def fail(self, trouble: Exception) -> None:
        """End all its watches with an exception."""
        self.trouble = trouble
        self.stir()

    def stir(self) -> None:
        """Wake all who wait for something new."""
        stirred, self._stirred = self._stirred, asyncio.Event()
        stirred.set()

    async def news(self) -> None:
        """Wait until something is new."""
        await self._stirred.wait()


class Connection:
    """One notifier's socket, opened when a job is watched and kept until `close`."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._jobs: dict[UUID, Watched] = {}
        self._wanted = asyncio.Event()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._failures = 0
        self._polling = False
        self._keeping = asyncio.create_task(self._keep())
        self._keeping.add_done_callback(self._ended)

    @asynccontextmanager
    async def watching(self, job_id: UUID, token: str) -> AsyncIterator[Watched]:
        """Watch a job until the block ends, beside those who watch it already."""
        job = self._jobs.get(job_id)
        first = job is None
        if job is None:
            job = self._jobs[job_id] = Watched(job_id, token)
            self._wanted.set()
        job.watchers += 1
        try:
            if first:
                await self._ask(job)
            yield job
        finally:
            job.watchers -= 1
            if not job.watchers and self._jobs.get(job_id) is job:
                self._forget(job)
                await self._say({"unwatch": job_id})

    async def newer(self, job: Watched, version: int) -> JobSnapshot:
        """Wait for a snapshot that is newer than a version; raise what stands in its way."""
        while job.snapshot is None or job.version <= version:
            if job.trouble is not None:
                raise job.trouble
            if self._polling:
                await self._poll(job)
            else:
                await job.news()
        return job.snapshot

    async def close(self) -> None:
        """Close the socket and end all watches."""
        self._keeping.cancel()
        await asyncio.wait({self._keeping})

    async def _keep(self) -> None:
        while True:
            await self._wanted.wait()
            code: int | None = None
            reason: Exception | None = None
            try:
                code = await self._hold()
            except TimeoutError:
                self._poll_instead("no hello came")
            except aiohttp.WSServerHandshakeError as error:
                reason = error
                if error.status not in BUSY:
                    self._poll_instead(f"the upgrade was answered {error.status}")
            except (aiohttp.ClientError, OSError) as error:
                reason = error
            finally:
                self._socket = None
            if code in (POLICY, TOO_BIG):  # what is sent again would be refused again
                self._refuse()
            await asyncio.sleep(RETURN_S if self._polling else self._backoff_s(code, reason))

    async def _hold(self) -> int | None:
        """Open a socket, ask for all jobs, and take what comes until it closes; return the close code."""
        url = f"ws{self._url.removeprefix('http')}/live"
        timeout = aiohttp.ClientWSTimeout(ws_close=CLOSE_S)
        async with (
            asyncio.timeout(HELLO_S) as greeting,
            self._session.ws_connect(url, heartbeat=HEARTBEAT_S, timeout=timeout) as socket,
        ):
            self._socket = socket
            for job in list(self._jobs.values()):
                await self._ask(job)
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT and self._take(message.data):
                    greeting.reschedule(None)
                    self._failures = 0
                    self._polling = False
            return socket.close_code

    def _take(self, text: str) -> bool:
        """Take what the server says; tell whether it was a hello."""
        try:
            message = decode(text, _Message)
        except msgspec.DecodeError as error:
            log.warning("%s said what is not understood: %s", self._url, error)
            return False
        if message.job is not None and (watched := self._jobs.get(message.job.id)) is not None:
            watched.show(message.job)
        if message.error is not None and message.error.code != "unknown":  # what was known may come back
            self._told(message.error)
        return message.hello is not None

    def _told(self, error: _Error) -> None:
        """Fail the job that an error is about; one that names no job is for whoever has no answer yet."""
        for job in list(self._jobs.values()):
            if job.id == error.job_id or (error.job_id is None and job.snapshot is None):
                self._fail(job, trouble_of(None, error.code, error.message))

    def _refuse(self) -> None:
        for job in list(self._jobs.values()):
            self._fail(job, Problem(None, "refused", "The notifier refuses what this client sends."))

    def _fail(self, job: Watched, trouble: Exception) -> None:
        self._forget(job)
        job.fail(trouble)

    def _forget(self, job: Watched) -> None:
        del self._jobs[job.id]
        if not self._jobs:
            self._wanted.clear()

    def _poll_instead(self, reason: str) -> None:
        if not self._polling:
            log.info("%s has no socket for us (%s): polling", self._url, reason)
        self._polling = True
        for job in self._jobs.values():
            job.stir()

    def _backoff_s(self, code: int | None, reason: Exception | None) -> float:
        if code == OVERLOADED:
            self._failures = max(self._failures, OVERLOADED_FAILURES)
        wait_s = full_jitter_s(self._failures, BACKOFF_BASE_S, BACKOFF_CAP_S)
        self._failures += 1
        if self._failures == LASTING:
            log.warning("%s does not answer (%s); still trying", self._url, reason or code)
        return wait_s

    async def _ask(self, job: Watched) -> None:
        # Version 0 means that there was no record, so it is not named as one that was seen.
        await self._say({"watch": job.token, **({"version": job.version} if job.version > 0 else {})})

    async def _say(self, message: dict[str, object]) -> None:
        if self._socket is not None:
            with suppress(ConnectionError):  # it is being lost, and the next one will ask anew
                await self._socket.send_str(encode(message).decode())

    async def _poll(self, job: Watched) -> None:
        before = job.version
        tag = {"If-None-Match": f'"{before}"'} if before >= 0 else {}
        try:
            text = await call(
                self._session,
                "GET",
                f"{self._url}/live/jobs/{job.id}",
                token=job.token,
                headers={"Prefer": f"wait={WAIT_S}", **tag},
                timeout_s=2 * WAIT_S,
                patience_s=math.inf,
            )
            if text:
                job.show(decode(text, JobSnapshot))
        except Problem as problem:
            if problem.code != "unknown":
                raise
        if job.version == before:
            await asyncio.sleep(PAUSE_S)

    def _ended(self, keeping: asyncio.Task[None]) -> None:
        trouble = None if keeping.cancelled() else keeping.exception()
        for job in list(self._jobs.values()):
            self._fail(job, trouble if isinstance(trouble, Exception) else RuntimeError("the client is closed"))
