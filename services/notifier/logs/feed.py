"""Sends the logs of jobs to the clients that follow them: first what is stored, then each piece that is published.

A subscription knows the offset up to which its client has the log. It takes a published piece that begins there. After
anything else (a gap, a slow consumer that has drained, a connection to Redis that was lost) the log is read from that
offset, so that a client gets each byte once. Nothing is queued for a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
from redis.exceptions import RedisError

from headway.grants import DETAILS
from headway.labels import ALL_JOBS
from headway.tokens import Grant

from .. import metrics
from ..isolation import Recipient, isolated
from ..records.keys import job_id_from_log_key, log_key
from ..records.store import JobStore
from ..redis_client.pubsub import PubSub
from .piece import LogPiece
from .store import LogStore, StoredLog

log: structlog.stdlib.BoundLogger = structlog.get_logger()

LOG_BYTES_SENT = metrics.LOG_BYTES_SENT.labels()
MAX_READS = 20  # at the same time, of up to 64 KiB each
RETRY_DELAY_S = 0.25


class LogWatcher(Recipient, Protocol):
    """A client connection. None of these methods blocks."""

    def is_writable(self) -> bool:
        """Return whether the connection takes more bytes now; if not, `LogFeed.flush` follows when it drains."""

    def send_log(self, piece: LogPiece) -> None:
        """Send a piece of a log."""


class LogSubscription:
    """One watcher's interest in the log of one job."""

    __slots__ = ("filter", "has_details", "is_reading", "job_id", "needs_read", "offset", "watcher")

    def __init__(self, watcher: LogWatcher, grant: Grant, offset: int) -> None:
        self.watcher = watcher
        self.job_id = str(grant.job_id)
        self.has_details = DETAILS in grant.scope
        self.filter = None if grant.filter == ALL_JOBS else grant.filter  # what the record must match
        self.offset = offset  # up to which the client has the log
        self.needs_read = True  # whether published pieces are skipped, because a read follows
        self.is_reading = False  # whether a read is in progress, which may be too early for a published piece


class LogFeed:
    """The subscriptions of this replica to logs.

    Args:
        logs: the logs.
        records: the records, whose labels the filter of a list token must match.
        pubsub: the channels of the logs.
    """

    def __init__(self, logs: LogStore, records: JobStore, pubsub: PubSub) -> None:
        self._logs = logs
        self._records = records
        self._pubsub = pubsub
        self._by_job: dict[str, dict[LogWatcher, LogSubscription]] = {}
        self._by_watcher: dict[LogWatcher, dict[str, LogSubscription]] = {}
        self._pending_reads: dict[str, None] = {}  # jobs, in order
        self._has_pending_reads = asyncio.Event()
        self.on_forbidden: Callable[[LogSubscription], None] = lambda _subscription: None  # after its end
        metrics.LOG_SUBSCRIPTIONS.set_function(lambda: sum(map(len, self._by_job.values())))

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the background tasks by name."""
        return {"log_reads": self.read_loop}

    def subscribe(self, watcher: LogWatcher, grant: Grant, offset: int) -> None:
        """Send a watcher the log of a job from an offset, in place of its earlier subscription to that log."""
        subscription = LogSubscription(watcher, grant, offset)
        self._by_job.setdefault(subscription.job_id, {})[watcher] = subscription
        self._by_watcher.setdefault(watcher, {})[subscription.job_id] = subscription
        if self._pubsub.subscribe(log_key(subscription.job_id), self):  # otherwise on_subscribed schedules the read
            self._schedule_read(subscription.job_id)

    def unsubscribe(self, watcher: LogWatcher, job_id: str) -> None:
        """End a watcher's subscription to a log, if it has one."""
        jobs = self._by_watcher.get(watcher)
        if jobs is None or jobs.pop(job_id, None) is None:
            return
        if not jobs:
            del self._by_watcher[watcher]
        subscriptions = self._by_job[job_id]
        del subscriptions[watcher]
        if not subscriptions:
            del self._by_job[job_id]
            self._pubsub.unsubscribe(log_key(job_id))

    def close(self, watcher: LogWatcher) -> None:
        """End all subscriptions of a watcher."""
        for job_id in list(self._by_watcher.get(watcher, ())):
            self.unsubscribe(watcher, job_id)

    def flush(self, watcher: LogWatcher) -> None:
        """Read the logs that a watcher lacks, because it was backpressured."""
        for job_id, subscription in self._by_watcher.get(watcher, {}).items():
            if subscription.needs_read:
                self._schedule_read(job_id)

    def on_subscribed(self, channel: str) -> None:
        """Called when the subscription to a log's channel is confirmed. Earlier pieces may have been missed."""
        job_id = job_id_from_log_key(channel)
        for subscription in self._by_job.get(job_id, {}).values():
            subscription.needs_read = True
        self._schedule_read(job_id)

    def on_publication(self, channel: str, data: bytes) -> None:
        """Called with each piece that is published on a log's channel."""
        job_id = job_id_from_log_key(channel)
        try:
            piece = LogPiece.parse(job_id, data)
        except ValueError:
            log.warning("invalid_publication_ignored", job_id=job_id, size=len(data))
            return
        for subscription in list(self._by_job.get(job_id, {}).values()):
            if subscription.needs_read or piece.end == subscription.offset:  # or a read was faster than the publication
                continue
            if piece.start == subscription.offset and subscription.filter is None and not subscription.is_reading:
                self._send(subscription, piece)
            else:
                self._request_read(subscription)

    def _send(self, subscription: LogSubscription, piece: LogPiece) -> bool:
        """Send a piece; return whether the next one may follow."""
        is_sent = False
        with isolated(subscription.watcher):
            if not (subscription.has_details or piece.for_watchers):
                self.unsubscribe(subscription.watcher, subscription.job_id)
                self.on_forbidden(subscription)
            elif not subscription.watcher.is_writable():
                subscription.needs_read = True
            else:
                subscription.watcher.send_log(piece)
                subscription.offset = piece.end
                LOG_BYTES_SENT.inc(len(piece.data))
                is_sent = True
        return is_sent

    def _request_read(self, subscription: LogSubscription) -> None:
        subscription.needs_read = True
        self._schedule_read(subscription.job_id)

    def _schedule_read(self, job_id: str) -> None:
        self._pending_reads[job_id] = None
        self._has_pending_reads.set()

    async def read_loop(self) -> None:
        """Read the scheduled logs and send them, until cancelled."""
        while True:
            await self._has_pending_reads.wait()
            job_ids = list(self._pending_reads)[:MAX_READS]
            for job_id in job_ids:
                del self._pending_reads[job_id]
            if not self._pending_reads:
                self._has_pending_reads.clear()
            failures = [failure for failure in await asyncio.gather(*map(self._read, job_ids)) if failure is not None]
            if failures:
                log.warning("logs_read_failed", error=type(failures[0]).__name__, count=len(failures))
                await asyncio.sleep(RETRY_DELAY_S)

    async def _read(self, job_id: str) -> Exception | None:
        """Read a log and send it to the subscriptions that need it; return the error if Redis is unavailable."""
        # Before the read: a subscription that starts during the read may miss a piece, and schedules its own read.
        subscriptions = [
            subscription
            for subscription in self._by_job.get(job_id, {}).values()
            if subscription.needs_read and subscription.watcher.is_writable()
        ]
        if not subscriptions:
            return None
        for subscription in subscriptions:
            subscription.needs_read, subscription.is_reading = False, True
        try:
            matching = await self._matching(job_id, subscriptions)
            (stored,) = await self._logs.read([(job_id, min(subscription.offset for subscription in subscriptions))])
        except (RedisError, OSError) as error:
            for subscription in subscriptions:
                self._request_read(subscription)
            return error
        finally:
            for subscription in subscriptions:
                subscription.is_reading = False
        pieces: dict[int, LogPiece] = {}  # by their start, so that subscriptions share the encoded text
        for subscription in matching:
            if self._by_job.get(job_id, {}).get(subscription.watcher) is subscription:  # it may have ended meanwhile
                self._send_stored(subscription, stored, pieces)
        return None

    async def _matching(self, job_id: str, subscriptions: list[LogSubscription]) -> list[LogSubscription]:
        """Return the subscriptions whose filter the record matches. The others may never match: the hub ends them."""
        if all(subscription.filter is None for subscription in subscriptions):
            return subscriptions
        (record,) = await self._records.read([job_id])
        return [each for each in subscriptions if each.filter is None or (record and record.matches(each.filter))]

    def _send_stored(
        self, subscription: LogSubscription, stored: StoredLog | None, pieces: dict[int, LogPiece]
    ) -> None:
        """Send what a subscription lacks of a stored log."""
        if subscription.offset > (0 if stored is None else stored.end):  # the log was lost and begins again
            subscription.offset = 0
            self._request_read(subscription)
        elif stored is not None:
            for piece in stored.pieces(subscription.job_id, subscription.offset):
                if not self._send(subscription, pieces.setdefault(piece.start, piece)):
                    break
