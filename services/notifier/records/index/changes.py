"""Changes of the index, grouped by set, as the commands that apply them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from ...redis_client.connection import Command
from . import keys
from .entries import Entry, IndexedRecord, entries_of, list_names, shard_of

MAX_LISTED = 1_000  # jobs of an owner or of a tag; older ones are found by their kinds
SPARE_LISTED = 100  # jobs that a list has in addition, so that it seldom looks whole after it has lost some
LIST_PREFIXES = (keys.owner_name(""), keys.tag_name(""))


class IndexChanges:
    """The changes that give jobs the entries of their records. To apply them again has no effect."""

    def __init__(self) -> None:
        self._added: defaultdict[str, dict[bytes, float]] = defaultdict(dict)
        self._removed: defaultdict[str, list[bytes]] = defaultdict(list)
        self.announcements: defaultdict[str, list[str]] = defaultdict(list)  # job ids, by the name of their list

    def set_entries(self, job_id: str, record: IndexedRecord | None) -> None:
        """Add the entries of a job, and remove it from the other sets of jobs that have not ended."""
        member = keys.member_of(job_id)
        entries = entries_of(record, member)
        for entry in entries:
            self._add(entry, member)
        names = {entry.name for entry in entries}
        for shards in (keys.WAITING, keys.RETRYING, keys.RUNNING):
            if (name := shards[shard_of(member)]) not in names:
                self.remove(name, member)
        if record is not None and record.labels is not None:
            for name in list_names(record.labels):
                self.announcements[name].append(job_id)

    def remove(self, name: str, member: bytes) -> None:
        """Remove a job from a set."""
        self._removed[name].append(member)

    def _add(self, entry: Entry, member: bytes) -> None:
        self._added[entry.name][member] = entry.score
        directory = {"k": keys.KIND_HOURS, "end": keys.ENDED_HOURS}.get(entry.name.partition(":")[0])
        if directory is not None:
            self._added[directory][entry.name.encode()] = keys.hour_of(entry.score)

    def commands(self, ttl_ms: int) -> Iterator[tuple[str, Command]]:
        """Yield the commands, each with its key. A changed set expires after `ttl_ms`."""
        for name, scores in self._added.items():
            key = keys.index_key(name)
            pairs = [part for member, score in scores.items() for part in (int(score), member)]
            yield key, ("ZADD", key, *pairs)
            if name.startswith(LIST_PREFIXES):
                yield key, ("ZREMRANGEBYRANK", key, 0, -MAX_LISTED - SPARE_LISTED - 1)
            yield key, ("PEXPIRE", key, ttl_ms)
        for name, members in self._removed.items():  # last: a list that is read meanwhile has the job twice, or once
            yield keys.index_key(name), ("ZREM", keys.index_key(name), *members)
