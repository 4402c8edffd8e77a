"""Follow-up jobs: when a job with `on_end` has ended, the worker submits the job that follows it.

The queue message serves as the outbox: the worker deletes it only after the submitter has accepted the follow-up job.
If the worker dies in between, the message is delivered again, its start is answered `finished`, and the worker that has
it then submits the follow-up job. The id is computed from the id and the generation of the ended job, so that a
repeated submission is the same job.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from uuid import UUID, uuid5

import aiohttp
import msgspec
import structlog

from headway.contracts import (
    ENDED,
    MAX_NESTING_DEPTH,
    MAX_PAYLOAD_BYTES,
    JobMessage,
    JobReport,
    JobSnapshot,
    Json,
    Timestamp,
    decode,
    encode,
    encode_snapshot,
    nesting_depth,
    to_progress_snapshot,
)
from headway.details import KeptJob
from headway.labels import NO_LABELS, trace_of
from headway.trace_context import TRACEPARENT

from ..runtime.internal_requests import is_unknown_job, report_key_headers
from ..runtime.request import JSON
from ..runtime.settings import ReloadingFile, SettingsError
from . import metrics
from .registry import Registry

log: structlog.stdlib.BoundLogger = structlog.get_logger()

NAMESPACE = UUID("c5d539c8-4a80-410b-9277-e7cb2e6ba3c9")
NOT_AWAY = float("-inf")
TIMEOUT = aiohttp.ClientTimeout(total=5)
AWAY_S = 10.0  # after a request without an answer, for how long only one delivery at a time sends another
NOT_ESSENTIAL = ("result", "earlier_attempts", "progress")  # of a snapshot, in the order in which they are left out


class FollowUpFailed(Exception):
    """The notifier or the submitter is unavailable, or refuses the request."""


class FollowUps:
    """Submits follow-up jobs.

    Args:
        session: the HTTP session.
        notifier_url: the notifier's internal listener, which has the snapshots.
        submitter_url: the submitter's internal listener, None if it is unknown.
        keys: the report keys; the first one is used.
        registry: the jobs of this worker; a kind has its own `on_end`.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        notifier_url: str,
        submitter_url: str | None,
        keys: ReloadingFile[tuple[str, ...]],
        registry: Registry,
    ) -> None:
        self._session = session
        self._notifier_url = f"{notifier_url.rstrip('/')}/jobs/"
        self._submitter_url = None if submitter_url is None else f"{submitter_url.rstrip('/')}/jobs"
        self._keys = keys
        self._registry = registry
        self._away_until = NOT_AWAY

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, notifier_url: str, submitter_url: str | None, keys: ReloadingFile[tuple[str, ...]], registry: Registry
    ) -> AsyncIterator[FollowUps]:
        """Open a session to the services.

        Raises:
            SettingsError: a job has a follow-up job, but the submitter is unknown.
        """
        kinds = [kind for kind, job in registry.items() if job.on_end is not None]
        if kinds and submitter_url is None:
            raise SettingsError([f"SUBMITTER_INTERNAL_URL is missing: the job {kinds[0]!r} has on_end"])
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield cls(session, notifier_url, submitter_url, keys, registry)

    async def submit(self, message: JobMessage, end: JobReport | None) -> bool:
        """Submit the follow-up job of a job that has ended, if it has one.

        A service that does not answer must not occupy all slots of the worker: then one delivery asks it again, and the
        others fail at once.

        Args:
            message: the message of the ended job.
            end: the report of the end, if the notifier has accepted it from this delivery. Otherwise the message is one
                of several, or of an earlier generation, and the record decides whether the job has ended.

        Returns:
            Whether the message is of no more use. Otherwise it must be delivered again.
        """
        job = self._registry.get(message.kind)
        kind = message.on_end or (None if job is None else job.on_end)
        if kind is None:
            return True
        now = time.monotonic()
        if now < self._away_until:
            metrics.FOLLOW_UPS.labels("failed").inc()
            return False
        if self._away_until != NOT_AWAY:
            self._away_until = now + AWAY_S  # this delivery asks again, for all others
        try:
            await self._submit(message, kind, end)
            self._away_until = NOT_AWAY
        except (FollowUpFailed, aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
            has_answered = isinstance(error, (FollowUpFailed, msgspec.DecodeError))
            self._away_until = NOT_AWAY if has_answered else time.monotonic() + AWAY_S
            detail = str(error) if isinstance(error, FollowUpFailed) else type(error).__name__
            log.warning("follow_up_failed", on_end=kind, error=detail)
            metrics.FOLLOW_UPS.labels("failed").inc()
            return False
        return True

    async def _submit(self, message: JobMessage, kind: str, end: JobReport | None) -> None:
        """Submit the follow-up job, unless the record says that the message is of no more use."""
        ended = await self._read_ended(message)
        if ended is None and end is not None:  # Redis has lost the end, which nothing would bring back
            ended = _ended_job(end)
        if ended is not None and ended.generation == message.generation:
            await self._post(message, kind, ended)

    async def _read_ended(self, message: JobMessage) -> KeptJob | None:
        """Return the job at the end of the message's generation, or of a later one; None if its record says neither."""
        async with self._session.get(
            f"{self._notifier_url}{message.id}", headers=report_key_headers(self._keys), allow_redirects=False
        ) as response:
            body = await response.read()
        if is_unknown_job(response, body):
            return None
        if response.status != HTTPStatus.OK:
            raise FollowUpFailed(f"the notifier answered with status {response.status}")
        job = decode(body, KeptJob)
        has_ended = job.generation == message.generation and job.status in ENDED
        return job if has_ended or job.generation > message.generation else None

    async def _post(self, message: JobMessage, kind: str, ended: KeptJob) -> None:
        if self._submitter_url is None:
            raise FollowUpFailed("SUBMITTER_INTERNAL_URL is not set")
        follow_up_id = uuid5(NAMESPACE, f"{message.id}/{message.generation}")
        labels = {"owner": ended.labels.owner, "tags": ended.labels.tags}
        body = encode({"id": follow_up_id, "kind": kind, "payload": payload_from_snapshot(ended.snapshot), **labels})
        headers = {**report_key_headers(self._keys), "Content-Type": JSON}
        if (trace := trace_of(message.labels)) is not None:
            headers[TRACEPARENT] = str(trace)
        async with self._session.post(
            self._submitter_url, data=body, headers=headers, allow_redirects=False
        ) as response:
            if response.status != HTTPStatus.ACCEPTED:
                raise FollowUpFailed(f"the submitter answered with status {response.status}")
        metrics.FOLLOW_UPS.labels("submitted").inc()
        log.info("follow_up_submitted", on_end=kind, follow_up=str(follow_up_id))


def _ended_job(end: JobReport) -> KeptJob:
    """Return a job as its record says it once the report of its end is applied."""
    now, labels = Timestamp.now(), end.labels or NO_LABELS
    snapshot = JobSnapshot(
        id=end.job_id,
        kind=end.kind,
        status=end.status,
        version=int(now),
        generation=end.generation,
        attempt=end.attempt,
        max_attempts=end.max_attempts,
        progress=to_progress_snapshot(end.progress),
        result=end.result,
        error=end.error,
        submitted_at=end.submitted_at,
        updated_at=now,
        finished_at=now,
        expires_at=end.expires_at,
        name=labels.name,
    )
    return KeptJob(
        status=end.status,
        generation=end.generation,
        kind=end.kind,
        labels=labels,
        snapshot=Json(encode_snapshot(snapshot)),
    )


def payload_from_snapshot(snapshot: Json) -> Json:
    """Return a snapshot as a payload: without its result, or further fields, if it would be too large or too deep."""
    payload = snapshot
    for field in NOT_ESSENTIAL:
        text = bytes(payload)
        if len(text) <= MAX_PAYLOAD_BYTES and nesting_depth(text) <= MAX_NESTING_DEPTH:
            break
        fields = decode(text, dict[str, Json])
        fields.pop(field, None)
        payload = Json(encode(fields))
    return payload
