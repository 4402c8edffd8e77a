"""The store of the logs of jobs: one text of limited size per job, to which its current delivery appends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from headway.details import MAX_LOG_BYTES, MAX_SUCCEEDED_LOG_BYTES, LogAppend, LogVerdict

from .. import metrics
from ..records.keys import job_key, log_key, log_text_key
from ..redis_client.by_node import run_by_node
from ..redis_client.lua_script import LuaScript, ScriptCall
from ..redis_client.topology import RedisClient
from .piece import LogPiece

SCRIPT = files(__package__).joinpath("log.lua").read_bytes()
_SECTION = re.compile(rb"(\d+):(\d+)")
LOG_BYTES, LOG_GAPS = metrics.LOG_BYTES.labels(), metrics.LOG_GAPS.labels()


class StoredLog(NamedTuple):
    """A job's log, or the end of it.

    Attributes:
        base: the offset of the oldest byte that is kept.
        end: the offset after the last byte.
        attempt: the attempt that has logged last.
        for_watchers: whether everyone who watches the job may read the log.
        data: the kept bytes from the requested offset to the end.
        lines: the number of lines before the base, as far as it is known.
        sections: the attempts whose text is kept, and the offset at which that of each begins.
    """

    base: int
    end: int
    attempt: int
    for_watchers: bool
    data: bytes
    lines: int = 0
    sections: tuple[tuple[int, int], ...] = ()

    def pieces(self, job_id: str, offset: int) -> list[LogPiece]:
        """Return what follows an offset, not before the one that was requested: one piece for each attempt."""
        start = max(offset, self.base)
        if start >= self.end or not self.data:
            return []
        line = self.lines + 1 if start == self.base and self.lines else None
        later = [(attempt, begin) for attempt, begin in self.sections if start < begin < self.end]
        earlier = [attempt for attempt, begin in self.sections if begin <= start]
        first = earlier[-1] if earlier else self.sections[0][0] if self.sections else self.attempt
        pieces, ends = [], [*(begin for _attempt, begin in later), self.end]
        for (attempt, begin), end in zip([(first, start), *later], ends, strict=True):
            data = self.data[len(self.data) - (self.end - begin) : len(self.data) - (self.end - end)]
            pieces.append(LogPiece(job_id, begin, attempt, data, for_watchers=self.for_watchers, line=line))
            line = None
        return pieces


class LogStore:
    """Appends to and reads logs.

    Args:
        redis: the client.
        is_full: returns whether the memory of Redis is left to the records.
    """

    def __init__(self, redis: RedisClient, is_full: Callable[[], bool]) -> None:
        self._redis = redis
        self._script = LuaScript(redis, SCRIPT, key_count=3)
        self._is_full = is_full

    async def append(self, appends: Iterable[LogAppend]) -> list[LogVerdict]:
        """Append to logs, in order, and return the verdicts in the same order. A repetition changes nothing.

        Raises:
            RedisError, OSError: Redis is unavailable for all of them. Any of the texts may have been appended.
        """
        appends = list(appends)
        if self._is_full():
            replies: list[Any] = [b"full"] * len(appends)
        else:
            calls = [_append_call(append) for append in appends]
            replies = await run_by_node(self._redis, calls, itemgetter(0), self._script.run_each)
            if replies and all(isinstance(reply, Exception) for reply in replies):
                raise replies[0]
        return [_verdict(append, reply) for append, reply in zip(appends, replies, strict=True)]

    async def read(self, positions: Sequence[tuple[str, int]]) -> list[StoredLog | None]:
        """Return the logs of jobs from an offset of each, with None for a job that has logged nothing.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        if not positions:
            return []
        calls = [[*_keys(job_id), "read", MAX_SUCCEEDED_LOG_BYTES, offset] for job_id, offset in positions]
        replies = await self._script.run(calls)
        return [None if reply is None else _stored(*reply) for reply in replies]


def _keys(job_id: UUID | str) -> ScriptCall:
    return [job_key(job_id), log_key(job_id), log_text_key(job_id)]


def _append_call(append: LogAppend) -> ScriptCall:
    return [
        *_keys(append.job_id),
        "append",
        MAX_LOG_BYTES,
        MAX_SUCCEEDED_LOG_BYTES,
        append.generation,
        append.message_id,
        append.delivery,
        append.attempt,
        int(append.watchers),
        int(append.more),
        append.start,
        append.text,
    ]


def _verdict(append: LogAppend, reply: int | bytes | Exception) -> LogVerdict:
    """Count and return the verdict for a reply of the script."""
    if not isinstance(reply, int):
        reason: Any = reply.decode() if isinstance(reply, bytes) else "unavailable"
        metrics.LOG_APPENDS.labels(reason).inc()
        return LogVerdict(append.job_id, accepted=False, reason=reason)
    metrics.LOG_APPENDS.labels("accepted").inc()
    LOG_BYTES.inc(len(append.text.encode()))
    if reply > 0:
        LOG_GAPS.inc()
    return LogVerdict(append.job_id, accepted=True)


def _stored(
    base: int, end: int, attempt: bytes, watchers: bytes, data: bytes, lines: int, sections: bytes
) -> StoredLog:
    parsed = tuple((int(number), int(offset)) for number, offset in _SECTION.findall(sections))
    return StoredLog(base, end, int(attempt), watchers == b"1", data, lines, parsed)
