"""What keeps every watcher on the last version: subscribe, be confirmed, read, send, then whatever is newer.

New watches, confirmations after a lost subscription and jobs gone silent all come to the same act: read the record
again, many in one round trip, and show it to whoever has not seen it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import structlog
from redis.exceptions import RedisError

from headway.contracts import JobReport, Timestamp, spell_id
from services.notifier import metrics
from services.notifier.bus import Bus
from services.notifier.hub import Hub, Snapshot, Watch
from services.notifier.records import Records

log: structlog.stdlib.BoundLogger = structlog.get_logger()

SENT, SENT_BYTES = metrics.SENT.labels(), metrics.SENT_BYTES.labels()
PUBSUB_LAG, DELIVERY_LATENCY = metrics.PUBSUB_LAG.labels(), metrics.DELIVERY_LATENCY.labels()
BATCH = 200  # records in one read
RETRY_S = 0.25
TICK_S = 1.0


def _count(snapshot: Snapshot, shown: int) -> None:
    SENT.inc(shown)
    SENT_BYTES.inc(shown * len(snapshot.text))


class Live:
    """Connects the hub, which knows who watches, with the bus and the records."""

    def __init__(self, hub: Hub, records: Records, silence_s: float) -> None:
        self._hub = hub
        metrics.WATCHED.set_function(lambda: len(hub))
        metrics.SUBSCRIPTIONS.set_function(hub.watches)
        self._records = records
        self._silence_s = silence_s
        self._due: dict[str, None] = {}  # the jobs to read, in the order of their asking
        self._sent: dict[str, Timestamp] = {}  # when a worker sent what is about to be heard of these jobs
        self._work = asyncio.Event()
        self.bus: Bus

    def watch(self, watch: Watch) -> None:
        """Begin a watch; its watcher is answered soon."""
        self._hub.join(watch, time.monotonic())
        if self.bus.want(watch.job_id):  # otherwise its confirmation will come, and lead to the read
            self._read(watch.job_id)

    def unwatch(self, watch: Watch) -> None:
        """End a watch."""
        if self._hub.leave(watch):
            self.bus.forget(watch.job_id)
            self._sent.pop(watch.job_id, None)

    def heard(self, job_id: str, text: bytes) -> None:
        """Take what was published of a job."""
        snapshot = Snapshot.read(text)
        if snapshot is None:
            log.warning("publication_unreadable", job_id=job_id, size=len(text))
            return
        self._deliver(job_id, snapshot)
        now = time.time() * 1000
        PUBSUB_LAG.observe(max(0, now - snapshot.version) / 1000)
        if sent_at := self._sent.pop(job_id, None):
            DELIVERY_LATENCY.observe(max(0, now - sent_at) / 1000)

    def _deliver(self, job_id: str, snapshot: Snapshot) -> None:
        shown, replaced = self._hub.deliver(job_id, snapshot, time.monotonic())
        if replaced:
            metrics.DROPPED.labels("slow").inc(replaced)
        _count(snapshot, shown)

    def resume(self, watch: Watch) -> None:
        """Show a watcher that takes more again what it has missed."""
        snapshot = self._hub.resume(watch)
        if snapshot is not None:
            _count(snapshot, 1)

    def reported(self, reports: Iterable[JobReport]) -> None:
        """Take when workers sent what came in here, to tell how long the way to this replica's watchers is."""
        for report in reports:
            if report.sent_at is not None and (job_id := spell_id(report.job_id)) in self._hub:
                self._sent[job_id] = report.sent_at

    def unpublished(self, report: JobReport) -> None:
        """Take that a report was refused, or changed nothing that a watcher sees."""
        self._sent.pop(spell_id(report.job_id), None)

    def confirmed(self, job_id: str) -> None:
        """Take that a job's subscription stands: what was published before may be lost, so read."""
        if job_id in self._hub:
            self._read(job_id)

    def _read(self, job_id: str) -> None:
        self._due[job_id] = None
        self._work.set()

    async def read(self) -> None:
        """Read the records that are due, for ever."""
        while True:
            await self._work.wait()
            batch = list(self._due)[:BATCH]
            for job_id in batch:
                del self._due[job_id]
            if not self._due:
                self._work.clear()
            # Now: a watch that joins during the read may have missed what came before, and has a read of its own.
            waiting = [self._hub.unanswered(job_id) for job_id in batch]
            try:
                texts = await self._records.read(batch)
            except (RedisError, OSError) as error:
                log.warning("records_unreadable", error=type(error).__name__)
                for job_id in batch:
                    self._read(job_id)
                await asyncio.sleep(RETRY_S)
                continue
            metrics.REFRESHED.inc(len(batch))
            for job_id, watches, text in zip(batch, waiting, texts, strict=True):
                self._show(job_id, watches, text)

    def _show(self, job_id: str, watches: list[Watch], text: bytes | None) -> None:
        snapshot = Snapshot.read(text)
        if snapshot is not None:
            self._deliver(job_id, snapshot)
        for watch in watches:
            watch.answered = True
            if watch.named > 0:
                metrics.RESUMES.labels("miss" if snapshot is None else "hit").inc()
            if snapshot is None:
                self._hub.absent(watch)
            elif watch.version >= snapshot.version:
                watch.watcher.caught_up(job_id, ended=snapshot.ended)

    async def sweep(self) -> None:
        """Read what has gone silent, since silence itself is the sign of a gap; end what has expired."""
        while True:
            await asyncio.sleep(min(TICK_S, self._silence_s / 2))
            now = time.monotonic()
            silent = self._hub.silent(now - self._silence_s)
            self._hub.touch(silent, now)
            for job_id in silent:
                self._read(job_id)
            for watch in self._hub.expired(Timestamp.now()):
                self.unwatch(watch)
                watch.watcher.tell(watch.job_id, "token_expired", "The token has expired.")
