"""The jobs' records in Redis; the script `gate.lua` is the only thing that reads or changes one."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from redis.exceptions import NoScriptError, RedisError

from headway.contracts import (
    DEFAULT_ATTEMPTS,
    JobReport,
    OneLine,
    Progress,
    Timestamp,
    Verdict,
    encode,
    present,
    spell_id,
)
from headway.tokens import Pass
from services.notifier import metrics
from services.notifier.servers import Servers
from services.notifier.wire import Command

GATE = (Path(__file__).parent / "gate.lua").read_bytes()
PREFIX = "headway:job:{"
CANCEL, WATCHED, PUBLISHED = 1, 2, 4  # what the gate's answer to an accepted report is the sum of
ROUNDS = 3  # how often what met no script is run again: calls may have followed their keys to a further server

Call = list[Any]  # the key, then the script's arguments


def channel(job_id: UUID | str) -> str:
    """Name a job's record, and the channel of its changes; the braces are Redis Cluster's hash tag."""
    return f"{PREFIX}{job_id}}}"


class Records:
    """Passes reports, cancels and reads through the gate, a batch in one round trip to each server."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._gate = GATE.replace(b"SHARDED = false", b"SHARDED = true") if servers.sharded else GATE
        self._sha = hashlib.sha1(self._gate, usedforsecurity=False).hexdigest()

    async def apply(
        self, reports: Iterable[JobReport], unpublished: Callable[[JobReport], None] = lambda _report: None
    ) -> list[Verdict]:
        """Pass reports through the gate, in their order; `unpublished` hears of those that no watcher will.

        Raises:
            RedisError: Redis is away, or the outcome of at least one report is in doubt.
        """
        reports = list(reports)
        answers = await self._call("report", [_report(report) for report in reports])
        verdicts = []
        for report, answer in zip(reports, answers, strict=True):
            verdicts.append(_verdict(report.job_id, answer))
            if isinstance(answer, list) or not answer & PUBLISHED:
                unpublished(report)
        return verdicts

    async def progress(self, line: OneLine, job_ttl_s: float) -> Verdict:
        """Pass a one-line report through the gate; the record tells what it does not. Raises as `apply`."""
        (answer,) = await self._call("progress", [_progress(line, Timestamp.now(), job_ttl_s)])
        return _verdict(line.job_id, answer)

    async def cancel(self, granted: Pass) -> bytes:
        """Cancel a job and return its snapshot: at once, or by request when a worker holds it; an ending stands."""
        (snapshot,) = await self._call("cancel", [_cancel(granted)])
        return bytes(snapshot)

    async def read(self, job_ids: Iterable[str]) -> list[bytes | None]:
        """Return the snapshots of jobs, None for one without a record."""
        return await self._call("read", [[channel(job_id), "read"] for job_id in job_ids])

    async def _call(self, op: str, calls: Sequence[Call]) -> list[Any]:
        if not calls:
            return []
        started = time.monotonic()
        try:
            answers = await self._servers.run([self._known(call) for call in calls])
            if any(isinstance(answer, RedisError) for answer in answers):
                await self._mend(calls, answers)
        except (RedisError, OSError):
            metrics.REDIS_ERRORS.labels(op).inc()
            raise
        finally:
            metrics.REDIS_DURATION.labels(op).observe(time.monotonic() - started)
        return answers

    async def _mend(self, calls: Sequence[Call], answers: list[Any]) -> None:
        """Run again what met no script; raise whatever else was refused."""
        for _ in range(ROUNDS):
            missed = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if not missed:
                break
            again = await self._servers.run(self._brought([calls[index] for index in missed]))
            for index, answer in zip(missed, again, strict=True):
                answers[index] = answer
        for answer in answers:
            if isinstance(answer, RedisError):
                raise answer

    def _known(self, call: Call) -> tuple[str, Command]:
        """Spell a call to a server that knows the gate."""
        return call[0], ("EVALSHA", self._sha, 1, *call)

    def _brought(self, calls: Sequence[Call]) -> list[tuple[str, Command]]:
        """Spell calls to servers that do not know the gate, as new and emptied ones: the first to each brings it."""
        without = {self._servers.keeper(call[0]) for call in calls}
        commands: list[tuple[str, Command]] = []
        for call in calls:
            key = call[0]
            if (server := self._servers.keeper(key)) in without:
                without.discard(server)
                commands.append((key, ("EVAL", self._gate, 1, *call)))
            else:
                commands.append(self._known(call))
        return commands


def _verdict(job_id: UUID, answer: Any) -> Verdict:
    if isinstance(answer, list):
        reason, cancel_requested = answer
        return Verdict(job_id, accepted=False, reason=reason.decode(), cancel_requested=bool(cancel_requested))
    return Verdict(job_id, True, None, bool(answer & CANCEL), bool(answer & WATCHED))


def _moment(moment: Timestamp | None) -> bytes:
    return b"null" if moment is None else moment.quoted()


def _report(report: JobReport) -> Call:
    """Spell a report as the gate's REPORTED fields."""
    return [
        channel(spell_id(report.job_id)),
        "report",
        encode(report.kind),
        encode(report.status),
        report.generation,
        report.attempt,
        report.max_attempts,
        encode(present(report.progress)),
        bytes(report.result),
        encode(report.error),
        _moment(report.submitted_at),
        _moment(report.due_at),
        _moment(report.lease_until),
        _moment(report.expires_at),
        report.message_id,
        report.delivery,
        report.sequence,
        int(report.lease_until or 0),
        int(report.due_at or 0),
        int(report.expires_at),
    ]


def _progress(line: OneLine, now: Timestamp, job_ttl_s: float) -> Call:
    """Spell a one-line report as the gate's PROGRESS fields."""
    expires_at = now.after(job_ttl_s)
    return [
        channel(line.job_id),
        "progress",
        encode(line.kind),
        encode("succeeded" if line.progress == 100 else "running"),
        DEFAULT_ATTEMPTS,
        encode(present(Progress(line.progress, 100, "%", line.message))),
        math.floor(1000 * line.progress),
        encode(now),
        encode(expires_at),
        int(expires_at),
    ]


def _cancel(granted: Pass) -> Call:
    """Spell a pass as the gate's GRANTED fields."""
    return [
        channel(granted.job_id),
        "cancel",
        encode(granted.kind),
        DEFAULT_ATTEMPTS,
        encode(granted.submitted_at),
        encode(granted.due_at),
        encode(granted.expires_at),
        int(granted.expires_at),
    ]
