"""Keeps every watcher up to date: subscribe, wait for the confirmation, read, send, then forward publications.

A new subscription, a new confirmation after a lost connection, and a job without updates lead to the same action: read
the record, many records in one round trip, and send the snapshot to every watcher that has an older version.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

import structlog

from headway.contracts import JobReport, Timestamp, uuid_str

from .. import metrics
from ..isolation import isolated
from ..records.keys import job_id_from_key, job_key
from ..records.record_read import RecordRead
from ..records.store import JobStore
from ..redis_client.pubsub import PubSub
from .hub import Hub, Subscription
from .snapshot import PublishedSnapshot

log: structlog.stdlib.BoundLogger = structlog.get_logger()

SNAPSHOTS_SENT, SNAPSHOT_BYTES_SENT = metrics.SNAPSHOTS_SENT.labels(), metrics.SNAPSHOT_BYTES_SENT.labels()
PUBSUB_LAG, DELIVERY_LATENCY = metrics.PUBSUB_LAG.labels(), metrics.DELIVERY_LATENCY.labels()
MAX_RECORDS_PER_READ = 200
READ_RETRY_DELAY_S = 0.25
MAX_SWEEP_INTERVAL_S = 1.0
MAX_INTERVAL_FACTOR = 12


def _is_overtaken(snapshot: PublishedSnapshot, subscription: Subscription) -> bool:
    """Return whether a watcher was sent a newer version than that of a read, which says whether the job has ended."""
    return subscription.version > max(snapshot.version, subscription.client_version)


def _count_sent(snapshot: PublishedSnapshot, count: int) -> None:
    SNAPSHOTS_SENT.inc(count)
    SNAPSHOT_BYTES_SENT.inc(count * len(snapshot.text))


class SnapshotSynchronizer:
    """Connects the hub to the job store and to the Redis channels of the watched jobs.

    Args:
        hub: the subscriptions of this replica.
        store: the store to read records from.
        pubsub: the channels of the jobs.
        stale_after_s: after how many seconds without an update the record of an unfinished job is read again. The
            interval grows up to MAX_INTERVAL_FACTOR times that while the job has no updates.
        on_watched: called with a worker and its job when the job's channel was subscribed to; the next report of the
            worker shows it that the job is watched.
    """

    def __init__(
        self,
        hub: Hub,
        store: JobStore,
        pubsub: PubSub,
        stale_after_s: float,
        on_watched: Callable[[str, str], None] = lambda _worker_id, _job_id: None,
    ) -> None:
        self._hub = hub
        metrics.WATCHED_JOBS.set_function(lambda: len(hub))
        metrics.SUBSCRIPTIONS.set_function(hub.subscription_count)
        metrics.STALEST_RUNNING_JOB.set_function(lambda: hub.stalest_running_s(time.monotonic()))
        self._store = store
        self._pubsub = pubsub
        self._stale_after_s = stale_after_s
        self._on_watched = on_watched
        self._pending_reads: dict[str, bool] = {}  # by job, in order: whether its channel was subscribed to just now
        self._sent_times: dict[str, Timestamp] = {}  # by job: when the worker sent the report that is being applied
        self._has_pending_reads = asyncio.Event()
        self.on_mismatch: Callable[[Subscription], None] = self.unsubscribe

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the background tasks by name."""
        return {"reads": self.read_loop, "sweep": self.sweep_loop}

    def subscribe(self, subscription: Subscription) -> None:
        """Start a subscription. Its watcher gets the current snapshot after the next read."""
        self._hub.subscribe(subscription, time.monotonic())
        if self._pubsub.subscribe(job_key(subscription.job_id), self):  # otherwise on_subscribed schedules the read
            self._schedule_read(subscription.job_id)

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription."""
        if self._hub.unsubscribe(subscription):
            self._pubsub.unsubscribe(job_key(subscription.job_id))
            self._sent_times.pop(subscription.job_id, None)

    def on_publication(self, channel: str, data: bytes) -> None:
        """Called with each snapshot that is published on a job's channel."""
        job_id = job_id_from_key(channel)
        try:
            snapshot = PublishedSnapshot(data)
        except ValueError:
            log.warning("invalid_publication_ignored", job_id=job_id, size=len(data))
            return
        self._broadcast(job_id, snapshot)
        if self._hub.has_filtered(job_id):
            self._schedule_read(job_id)
        now = time.time() * 1000
        PUBSUB_LAG.observe(max(0, now - snapshot.version) / 1000)
        if sent_at := self._sent_times.pop(job_id, None):
            DELIVERY_LATENCY.observe(max(0, now - sent_at) / 1000)

    def on_subscribed(self, channel: str) -> None:
        """Called when the subscription to a job's channel is confirmed. Earlier snapshots may have been missed."""
        if (job_id := job_id_from_key(channel)) in self._hub:
            self._hub.restart_silence(job_id, time.monotonic())
            self._schedule_read(job_id, subscribed=True)

    def _broadcast(self, job_id: str, snapshot: PublishedSnapshot) -> None:
        sent, replaced = self._hub.broadcast(job_id, snapshot, time.monotonic())
        if replaced:
            metrics.SNAPSHOTS_REPLACED.labels("slow").inc(replaced)
        _count_sent(snapshot, sent)

    def flush(self, subscription: Subscription) -> None:
        """Send the pending snapshot, if there is one, of a subscription whose connection has drained."""
        if self._hub.is_outdated(subscription):
            self._schedule_read(subscription.job_id)
        snapshot = self._hub.flush(subscription)
        if snapshot is not None:
            _count_sent(snapshot, 1)

    def note_sent_times(self, reports: Iterable[JobReport]) -> None:
        """Store when workers sent reports of watched jobs, to measure the latency to the watchers on this replica."""
        for report in reports:
            if report.sent_at is not None and (job_id := uuid_str(report.job_id)) in self._hub:
                self._sent_times[job_id] = report.sent_at

    def drop_sent_time(self, report: JobReport) -> None:
        """Discard the sent time of a report that was not published."""
        self._sent_times.pop(uuid_str(report.job_id), None)

    def _schedule_read(self, job_id: str, *, subscribed: bool = False) -> None:
        self._pending_reads[job_id] = subscribed or self._pending_reads.get(job_id, False)
        self._has_pending_reads.set()

    async def read_loop(self) -> None:
        """Read the scheduled records and send their snapshots, until cancelled."""
        while True:
            await self._has_pending_reads.wait()
            job_ids = list(self._pending_reads)[:MAX_RECORDS_PER_READ]
            subscribed = [self._pending_reads.pop(job_id) for job_id in job_ids]
            if not self._pending_reads:
                self._has_pending_reads.clear()
            # Before the read: a subscription that starts during the read may miss a change, and schedules its own read.
            uninitialized = [self._hub.uninitialized(job_id) for job_id in job_ids]
            results = await self._store.read_available(job_ids)
            failures = []
            for job_id, is_new, subscriptions in zip(job_ids, subscribed, uninitialized, strict=True):
                if isinstance(result := results[job_id], Exception):
                    self._schedule_read(job_id, subscribed=is_new)
                    failures.append(type(result).__name__)
                else:
                    self._apply_read(job_id, subscriptions, result, is_new=is_new)
            metrics.RECORDS_READ.inc(len(job_ids) - len(failures))
            if failures:
                log.warning("records_read_failed", error=failures[0], count=len(failures))
                await asyncio.sleep(READ_RETRY_DELAY_S)

    def _apply_read(
        self, job_id: str, subscriptions: list[Subscription], record: RecordRead | None, *, is_new: bool
    ) -> None:
        """Send the snapshot of a record; initialize the subscriptions that began before the read.

        If the channel `is_new`, the job's worker may report its progress seldom, because the job was not watched.
        """
        snapshot = PublishedSnapshot.from_record(job_id, record)
        if snapshot is not None and record is not None:
            self._broadcast(job_id, snapshot)
            self._send_matching(job_id, record, snapshot)
            if is_new and not snapshot.ended and (worker_id := record.worker):
                self._on_watched(worker_id, job_id)
        for subscription in subscriptions:
            if not self._hub.has(subscription):
                continue  # it has ended during the read, or the record does not match its filter
            subscription.initialized = True
            if subscription.client_version > 0:
                metrics.RESUMES.labels("miss" if snapshot is None else "hit").inc()
            if snapshot is None:
                self._hub.on_missing_record(subscription)
            elif subscription.version >= snapshot.version and not _is_overtaken(snapshot, subscription):
                with isolated(subscription.watcher):
                    subscription.watcher.on_up_to_date(job_id, ended=snapshot.ended)

    def _send_matching(self, job_id: str, record: RecordRead, snapshot: PublishedSnapshot) -> None:
        """Send a snapshot to the filtered subscriptions; end those whose filter the record does not match."""
        sent, mismatched = self._hub.send_matching(job_id, record, snapshot)
        _count_sent(snapshot, sent)
        for subscription in mismatched:
            self.on_mismatch(subscription)

    async def sweep_loop(self) -> None:
        """Sweep at regular intervals, until cancelled."""
        while True:
            await asyncio.sleep(min(MAX_SWEEP_INTERVAL_S, self._stale_after_s / 2))
            self.sweep(time.monotonic())

    def sweep(self, now: float) -> None:
        """Schedule reads of jobs without updates, because a publication may be lost.

        The intervals grow only while the subscriptions are healthy.
        """
        max_interval_s = self._stale_after_s * (MAX_INTERVAL_FACTOR if self._pubsub.ready else 1)
        for job_id in self._hub.take_stale_jobs(now, self._stale_after_s, max_interval_s):
            self._schedule_read(job_id)
