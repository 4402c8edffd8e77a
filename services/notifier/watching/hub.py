"""The subscriptions of this replica and what each watcher has received. Pure bookkeeping, without I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, cast

from headway.contracts import ENDED, JobStatus
from headway.labels import ALL_JOBS, JobFilter
from headway.tokens import Grant

from ..isolation import Recipient, isolated
from ..records.record_read import RecordRead
from .snapshot import NO_VERSION, PublishedSnapshot, placeholder_snapshot


class Watcher(Recipient, Protocol):
    """A client connection. None of these methods blocks."""

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        """Send a snapshot; return False if the connection is backpressured."""

    def send_error(self, job_id: str, code: str, message: str) -> None:
        """Send an error about one job."""

    def on_up_to_date(self, job_id: str, *, ended: bool) -> None:
        """Called when the job's record was read and the watcher already has that version."""


class Subscription:
    """One watcher's interest in one job.

    A filtered subscription gets no publication, which does not contain the labels of the job, but only what was read
    from a record that matches the filter.
    """

    __slots__ = (
        "client_version",
        "grant",
        "initialized",
        "is_filtered",
        "job_id",
        "key_id",
        "valid_until",
        "version",
        "watcher",
    )

    def __init__(self, watcher: Watcher, grant: Grant, version: int | None, key_id: str = "") -> None:
        self.watcher = watcher
        self.grant = grant
        self.key_id = key_id  # the key that signed the token
        self.is_filtered = grant.filter not in (None, ALL_JOBS)
        self.valid_until = grant.valid_until
        self.job_id = str(grant.job_id)
        self.client_version = NO_VERSION if version is None else version  # the version that the client named
        self.version = self.client_version  # the newest version that the client has or was sent
        self.initialized = False  # whether the record has been read since the subscription began

    def send(self, snapshot: PublishedSnapshot) -> bool:
        """Send a snapshot; return False if the connection is backpressured."""
        is_sent = True
        with isolated(self.watcher):
            is_sent = self.watcher.send_snapshot(self.job_id, snapshot)
        if is_sent:
            self.version = snapshot.version
        return is_sent


@dataclass(slots=True, eq=False)
class Topic:
    """One watched job. Slow consumers and filtered subscriptions are kept apart; a broadcast does not touch them."""

    last_update: float
    last_read: float  # because of its silence
    subscriptions: dict[Watcher, Subscription] = field(default_factory=dict)
    lagging: dict[Watcher, Subscription] = field(default_factory=dict)  # their connection is backpressured
    filtered: dict[Watcher, Subscription] = field(default_factory=dict)
    pending: PublishedSnapshot | None = None  # the newest snapshot, kept once for all lagging watchers
    version: int = NO_VERSION
    status: JobStatus = "queued"  # until a snapshot says more
    has_lease: bool = False

    def all(self) -> list[Subscription]:
        """Return all subscriptions."""
        return [*self.subscriptions.values(), *self.lagging.values(), *self.filtered.values()]

    def has(self, subscription: Subscription) -> bool:
        """Return whether a subscription is still active."""
        watcher = subscription.watcher
        return subscription is (
            self.subscriptions.get(watcher) or self.lagging.get(watcher) or self.filtered.get(watcher)
        )

    def add(self, subscription: Subscription) -> None:
        """Add a subscription in place of the watcher's earlier one."""
        self.remove(subscription.watcher)
        subscriptions = self.filtered if subscription.is_filtered else self.subscriptions
        subscriptions[subscription.watcher] = subscription

    def remove(self, watcher: Watcher) -> None:
        """Remove a watcher's subscription."""
        self.subscriptions.pop(watcher, None)
        self.lagging.pop(watcher, None)
        self.filtered.pop(watcher, None)
        if not self.lagging:
            self.pending = None

    def send(self, subscription: Subscription, snapshot: PublishedSnapshot) -> bool:
        """Send a snapshot and return True; return False if the subscription lags from now on."""
        if subscription.send(snapshot):
            return True
        self.mark_lagging(subscription, snapshot)
        return False

    def mark_lagging(self, subscription: Subscription, snapshot: PublishedSnapshot) -> None:
        """Set a subscription apart until its connection drains; keep the newest snapshot for it."""
        self.subscriptions.pop(subscription.watcher, None)
        self.lagging[subscription.watcher] = subscription
        if self.pending is None or self.pending.version < snapshot.version:
            self.pending = snapshot


class Hub:
    """The topics of this replica; times are monotonic seconds."""

    def __init__(self) -> None:
        self._topics: dict[str, Topic] = {}

    def __len__(self) -> int:
        return len(self._topics)

    def subscription_count(self) -> int:
        """Return the number of subscriptions."""
        return sum(
            len(topic.subscriptions) + len(topic.lagging) + len(topic.filtered) for topic in self._topics.values()
        )

    def stalest_running_s(self, now: float) -> float:
        """Return for how many seconds the running job with the oldest news has had none; 0 without a running job.

        A job without a lease, which a program reports in one line, does not count: it may be silent for long.
        """
        topics = self._topics.values()
        updates = (topic.last_update for topic in topics if topic.status == "running" and topic.has_lease)
        return now - min(updates, default=now)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._topics

    def subscribe(self, subscription: Subscription, now: float) -> bool:
        """Add a subscription, replacing the watcher's earlier one; return whether it is the job's first."""
        topic = self._topics.get(subscription.job_id)
        first = topic is None
        if topic is None:
            topic = self._topics[subscription.job_id] = Topic(last_update=now, last_read=now)
        topic.add(subscription)
        return first

    def unsubscribe(self, subscription: Subscription) -> bool:
        """Remove a subscription; return whether it was the job's last."""
        topic = self._topics.get(subscription.job_id)
        if topic is None or not topic.has(subscription):
            return False
        topic.remove(subscription.watcher)
        if topic.subscriptions or topic.lagging or topic.filtered:
            return False
        del self._topics[subscription.job_id]
        return True

    def broadcast(self, job_id: str, snapshot: PublishedSnapshot, now: float) -> tuple[int, int]:
        """Send a snapshot to every watcher that has an older version, apart from those with a filter.

        Returns:
            The number of watchers it was sent to, and the number of lagging ones for which it replaced an older
            pending snapshot.
        """
        topic = self._topics.get(job_id)
        if topic is None:
            return 0, 0
        version = snapshot.version
        if version > topic.version:  # a publication may overtake a read
            topic.version, topic.last_update = version, now
            topic.status, topic.has_lease = snapshot.status, snapshot.has_lease
        replaced = 0
        if topic.pending is not None and version > topic.pending.version:
            topic.pending, replaced = snapshot, len(topic.lagging)
        sent, newly_lagging = 0, []
        for subscription in topic.subscriptions.values():  # Subscription.send, inlined: this is the hot loop
            if version > subscription.version:
                try:
                    is_sent = subscription.watcher.send_snapshot(job_id, snapshot)
                except Exception as error:  # noqa: BLE001 - the watcher logs it
                    subscription.watcher.on_failure(error)
                    continue
                if is_sent:
                    subscription.version = version
                    sent += 1
                else:
                    newly_lagging.append(subscription)
        for subscription in newly_lagging:
            topic.mark_lagging(subscription, snapshot)
        return sent, replaced

    def has(self, subscription: Subscription) -> bool:
        """Return whether a subscription is still active."""
        topic = self._topics.get(subscription.job_id)
        return topic is not None and topic.has(subscription)

    def has_filtered(self, job_id: str) -> bool:
        """Return whether the job has a filtered subscription."""
        topic = self._topics.get(job_id)
        return topic is not None and bool(topic.filtered)

    def send_matching(
        self, job_id: str, record: RecordRead, snapshot: PublishedSnapshot
    ) -> tuple[int, list[Subscription]]:
        """Send the snapshot of a record to the watchers whose filter it matches and who have an older version.

        Returns:
            The number of watchers it was sent to, and the subscriptions whose filter the record does not match.
        """
        topic = self._topics.get(job_id)
        sent = 0
        mismatched: list[Subscription] = []
        if topic is None or not topic.filtered:
            return sent, mismatched
        kind, labels = record.kind, record.labels
        for subscription in topic.filtered.values():
            if not cast(JobFilter, subscription.grant.filter).matches(kind, labels):
                mismatched.append(subscription)
            elif snapshot.version > subscription.version and subscription.send(snapshot):
                sent += 1
        return sent, mismatched

    def is_outdated(self, subscription: Subscription) -> bool:
        """Return whether a filtered subscription lacks the newest version, because its connection was backpressured."""
        topic = self._topics.get(subscription.job_id)
        return subscription.is_filtered and topic is not None and subscription.version < topic.version

    def flush(self, subscription: Subscription) -> PublishedSnapshot | None:
        """Send a lagging subscription its pending snapshot, and return the snapshot if it was sent."""
        topic = self._topics.get(subscription.job_id)
        if topic is None or topic.lagging.get(subscription.watcher) is not subscription:
            return None
        pending = topic.pending
        topic.remove(subscription.watcher)
        topic.subscriptions[subscription.watcher] = subscription
        if pending is None or pending.version <= subscription.version:
            return None
        return pending if topic.send(subscription, pending) else None

    def uninitialized(self, job_id: str) -> list[Subscription]:
        """Return the job's subscriptions for which the record has not been read yet."""
        topic = self._topics.get(job_id)
        return [] if topic is None else [subscription for subscription in topic.all() if not subscription.initialized]

    def on_missing_record(self, subscription: Subscription) -> None:
        """Called when the job of a new subscription has no record.

        The watcher gets the placeholder snapshot, or the error `unknown` if its token requires a record or it already
        had a version: a missing record never replaces a known snapshot.
        """
        topic = self._topics.get(subscription.job_id)
        if topic is None or not topic.has(subscription) or subscription.version != subscription.client_version:
            return  # the watcher has unsubscribed, or has received a snapshot
        reason = "This job has no record" if subscription.grant.requires_record else "The record of this job was lost"
        if subscription.client_version == NO_VERSION and not subscription.grant.requires_record:
            topic.send(subscription, PublishedSnapshot(placeholder_snapshot(subscription.grant)))
        elif subscription.client_version > 0 or subscription.grant.requires_record:
            with isolated(subscription.watcher):
                message = f"{reason}; the subscription stays open."
                subscription.watcher.send_error(subscription.job_id, "unknown", message)

    def take_stale_jobs(self, now: float, min_interval_s: float, max_interval_s: float) -> list[str]:
        """Return the watched, unfinished jobs whose records should be read, and count them as read now.

        The first read follows `min_interval_s` after the last update, and each further one after as long as the job
        had been silent at the one before, up to `max_interval_s`.
        """
        updated_before, read_before = now - min_interval_s, now - max_interval_s
        stale = [
            (job_id, topic)
            for job_id, topic in self._topics.items()
            if topic.last_update <= updated_before
            and (now - topic.last_read >= topic.last_read - topic.last_update or topic.last_read <= read_before)
            and topic.status not in ENDED
        ]
        for _, topic in stale:
            topic.last_read = now
        return [job_id for job_id, _ in stale]

    def restart_silence(self, job_id: str, now: float) -> None:
        """Count the silence of a job from now on, because publications may have been missed."""
        if (topic := self._topics.get(job_id)) is not None:
            topic.last_update = now
