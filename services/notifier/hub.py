"""Who watches which job on this replica, and what each has seen: pure bookkeeping, without a loop or a socket."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol
from uuid import UUID

import msgspec
from msgspec import Struct

from headway.contracts import ENDED, JobSnapshot, JobStatus, Natural, Timestamp, decode, encode
from headway.tokens import Pass
from services.notifier.frames import Opcode, frame

NONE = -1  # the version before any
SPACED = bytes.maketrans(b"\r\n", b"  ")


class _Head(Struct):
    """What a replica needs to know of a snapshot; of the rest only that it is JSON, as every browser will find."""

    id: UUID
    status: JobStatus
    version: Natural


class Snapshot:
    """A job's state as published; its text is passed on as it is, and framed once for all who watch.

    `message` is the text as a WebSocket text frame.
    """

    def __init__(self, text: bytes) -> None:
        try:
            head = decode(text, _Head)
        except msgspec.DecodeError as error:
            raise ValueError("this is no snapshot") from error
        self.text = text
        self.message = frame(Opcode.TEXT, b'{"job":%b}' % text)
        self.version = head.version
        self.ended = head.status in ENDED

    @classmethod
    def read(cls, text: bytes | None) -> Snapshot | None:
        """Take a record's text; what is no snapshot, since somebody else wrote it, is as good as none."""
        try:
            return None if text is None else cls(text)
        except ValueError:
            return None

    @cached_property
    def event(self) -> bytes:
        """The snapshot as a server-sent event."""
        return b"id: %d\n%b" % (self.version, event_of(b"job", self.text))

    @cached_property
    def chunk(self) -> bytes:
        """The event as a chunk of HTTP/1.1."""
        return chunk_of(self.event)


def queued(granted: Pass) -> bytes:
    """Return the snapshot of a job that has no record yet: version 0, told from its token alone."""
    due_at = granted.due_at if granted.due_at is not None and granted.due_at > Timestamp.now() else None
    return encode(
        JobSnapshot(
            id=granted.job_id,
            kind=granted.kind,
            status="queued",
            version=0,
            submitted_at=granted.submitted_at,
            due_at=due_at,
            expires_at=granted.expires_at,
        )
    )


def event_of(name: bytes, data: bytes) -> bytes:
    """Spell an event; JSON may have line breaks between its tokens, where a space is as good."""
    return b"event: %b\ndata: %b\n\n" % (name, data.translate(SPACED))


def chunk_of(data: bytes) -> bytes:
    """Frame a chunk as RFC 9112 §7.1 has it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Watcher(Protocol):
    """Where snapshots go: a connection. None of these waits for anything."""

    def push(self, job_id: str, snapshot: Snapshot) -> bool:
        """Send a snapshot, unless the connection takes nothing for now; tell whether it did."""

    def tell(self, job_id: str, code: str, message: str) -> None:
        """Send an error about one job."""

    def caught_up(self, job_id: str, *, ended: bool) -> None:
        """Take that the job's record was read, and that the watcher has seen it."""


class Watch:
    """One watcher's interest in one job."""

    __slots__ = ("answered", "ends_at", "granted", "job_id", "named", "version", "watcher")

    def __init__(self, watcher: Watcher, granted: Pass, version: int | None) -> None:
        self.watcher = watcher
        self.granted = granted
        self.ends_at = granted.ends_at
        self.job_id = str(granted.job_id)
        self.named = NONE if version is None else version  # what the watcher says that it had
        self.version = self.named  # the newest that it has been sent
        self.answered = False  # whether the record has been read for it


class Topic:
    """One watched job; whoever takes nothing for now costs its other watchers nothing."""

    __slots__ = ("behind", "ended", "heard_at", "missed", "version", "watches")

    def __init__(self, now: float) -> None:
        self.watches: dict[Watcher, Watch] = {}  # of those who take what comes
        self.behind: dict[Watcher, Watch] = {}  # of those who do not
        self.missed: Snapshot | None = None  # the newest that they have not been sent, kept once for all of them
        self.heard_at = now
        self.version = NONE
        self.ended = False

    def all(self) -> list[Watch]:
        """Return all watches."""
        return [*self.watches.values(), *self.behind.values()]

    def has(self, watch: Watch) -> bool:
        """Tell whether a watch goes on."""
        return watch is (self.watches.get(watch.watcher) or self.behind.get(watch.watcher))

    def remove(self, watcher: Watcher) -> None:
        """End a watcher's watch."""
        self.watches.pop(watcher, None)
        self.behind.pop(watcher, None)
        if not self.behind:
            self.missed = None

    def show(self, watch: Watch, snapshot: Snapshot) -> bool:
        """Send a snapshot; tell whether it was taken. If not, the watch is behind from now on."""
        if watch.watcher.push(watch.job_id, snapshot):
            watch.version = snapshot.version
            return True
        self.fall_behind(watch, snapshot)
        return False

    def fall_behind(self, watch: Watch, snapshot: Snapshot) -> None:
        """Keep the newest snapshot that a watcher has not taken, until it takes more."""
        self.watches.pop(watch.watcher, None)
        self.behind[watch.watcher] = watch
        if self.missed is None or self.missed.version < snapshot.version:
            self.missed = snapshot


class Hub:
    """The topics of this replica; times are monotonic seconds."""

    def __init__(self) -> None:
        self._topics: dict[str, Topic] = {}

    def __len__(self) -> int:
        return len(self._topics)

    def watches(self) -> int:
        """Count the watches."""
        return sum(len(topic.watches) + len(topic.behind) for topic in self._topics.values())

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._topics

    def join(self, watch: Watch, now: float) -> bool:
        """Add a watch, in place of the same watcher's earlier one; tell whether it is the job's first."""
        topic = self._topics.get(watch.job_id)
        first = topic is None
        if topic is None:
            topic = self._topics[watch.job_id] = Topic(now)
        topic.remove(watch.watcher)
        topic.watches[watch.watcher] = watch
        return first

    def leave(self, watch: Watch) -> bool:
        """Remove a watch; tell whether it was the job's last."""
        topic = self._topics.get(watch.job_id)
        if topic is None or not topic.has(watch):
            return False
        topic.remove(watch.watcher)
        if topic.watches or topic.behind:
            return False
        del self._topics[watch.job_id]
        return True

    def deliver(self, job_id: str, snapshot: Snapshot, now: float) -> tuple[int, int]:
        """Show a snapshot to everyone who has not seen it or a newer one.

        Returns to how many, and for how many others it has replaced one that they have missed.
        """
        topic = self._topics.get(job_id)
        if topic is None:
            return 0, 0
        topic.heard_at = now
        version = snapshot.version
        if version >= topic.version:  # a read may be overtaken by what is published meanwhile
            topic.version, topic.ended = version, snapshot.ended
        replaced = 0
        if topic.missed is not None and version > topic.missed.version:
            topic.missed, replaced = snapshot, len(topic.behind)
        shown, refused = 0, []
        for watch in topic.watches.values():  # as `show`, in fewer steps
            if version > watch.version:
                if watch.watcher.push(job_id, snapshot):
                    watch.version = version
                    shown += 1
                else:
                    refused.append(watch)
        for watch in refused:
            topic.fall_behind(watch, snapshot)
        return shown, replaced

    def resume(self, watch: Watch) -> Snapshot | None:
        """Show a watcher that takes more again what it has missed, and return that."""
        topic = self._topics.get(watch.job_id)
        if topic is None or topic.behind.get(watch.watcher) is not watch:
            return None
        missed = topic.missed
        topic.remove(watch.watcher)
        topic.watches[watch.watcher] = watch
        if missed is None or missed.version <= watch.version:
            return None
        return missed if topic.show(watch, missed) else None

    def unanswered(self, job_id: str) -> list[Watch]:
        """Return the job's watches that no read has answered yet."""
        topic = self._topics.get(job_id)
        return [] if topic is None else [watch for watch in topic.all() if not watch.answered]

    def absent(self, watch: Watch) -> None:
        """Answer a new watch of a job that has no record: it is queued, unless the watcher knew more than that."""
        topic = self._topics.get(watch.job_id)
        if topic is None or not topic.has(watch) or watch.version != watch.named:
            return  # it has left, or has been shown something since
        if watch.named == NONE:
            topic.show(watch, Snapshot(queued(watch.granted)))
        elif watch.named > 0:  # absence never replaces presence
            watch.watcher.tell(watch.job_id, "unknown", "What was known of this job is lost; the watch stays.")

    def silent(self, since: float) -> list[str]:
        """Name the watched jobs that have not ended and were last heard of before `since`."""
        return [job_id for job_id, topic in self._topics.items() if topic.heard_at < since and not topic.ended]

    def touch(self, job_ids: list[str], now: float) -> None:
        """Count jobs as heard of, since they are about to be read."""
        for job_id in job_ids:
            if job_id in self._topics:
                self._topics[job_id].heard_at = now

    def expired(self, now: Timestamp) -> list[Watch]:
        """Return the watches whose token has expired."""
        both = [watches for topic in self._topics.values() for watches in (topic.watches, topic.behind)]
        return [watch for watches in both for watch in watches.values() if watch.ends_at < now]
