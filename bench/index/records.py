"""The records of many jobs, written to Redis as the notifier writes them."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import hiredis

from headway.contracts import JobError, JobSnapshot, JobStatus, Json, ProgressSnapshot, Timestamp, encode
from headway.labels import Labels

KINDS = [f"kind-{number}" for number in range(8)]
OWNERS = 50_000
DAY_S = 86_400.0
JOB_TTL_S = 7 * DAY_S
STATUSES: tuple[JobStatus, ...] = ("succeeded", "failed", "cancelled", "queued", "running")
WEIGHTS = (90, 5, 1, 3, 1)
COMMANDS_PER_WRITE = 1_000


def load(redis_url: str, count: int) -> None:
    """Write records of jobs that were submitted within the last week, each with an owner."""
    parts = urlsplit(redis_url)
    with socket.create_connection((parts.hostname, parts.port or 6379)) as connection:
        connection.sendall(b"CLIENT REPLY OFF\r\n")
        commands: list[bytes] = []
        for command in _commands(count):
            commands.append(command)
            if len(commands) == COMMANDS_PER_WRITE:
                connection.sendall(b"".join(commands))
                commands.clear()
        connection.sendall(b"".join(commands) + b"CLIENT REPLY ON\r\n")
        connection.recv(64)


def _commands(count: int) -> Iterator[bytes]:
    choose = random.Random(1)  # noqa: S311 - the same jobs in each run
    now = Timestamp(time.time_ns() // 1_000_000)
    for _ in range(count):
        snapshot = _snapshot(choose, now)
        key = f"headway:job:{{{snapshot.id}}}"
        fields = {name: encode(getattr(snapshot, name)) for name in snapshot.__struct_fields__[:18]}
        fence = {"message_id": str(UUID(int=choose.getrandbits(128))), "delivery": 1, "sequence": 7}
        times = {"lease_ms": 0, "due_ms": 0, "expires_ms": int(snapshot.expires_at)}
        labels = {"labels": encode(Labels(owner=f"user:{choose.randrange(OWNERS)}")), "worker": "worker-7d9f-1"}
        pairs: list[Any] = [part for pair in {**fields, **fence, **times, **labels}.items() for part in pair]
        commands: tuple[Any, ...] = (("HSET", key, *pairs), ("PEXPIRE", key, round(1000 * JOB_TTL_S)))
        yield from map(hiredis.pack_command, commands)


def _snapshot(choose: random.Random, now: Timestamp) -> JobSnapshot:
    (status,) = choose.choices(STATUSES, WEIGHTS)
    submitted_at = now.after(-choose.random() * JOB_TTL_S)
    finished_at = min(now, submitted_at.after(60)) if status in STATUSES[:3] else None
    return JobSnapshot(
        id=UUID(int=choose.getrandbits(128)),
        kind=choose.choice(KINDS),
        status=status,
        version=int(submitted_at),
        progress=ProgressSnapshot(100, 100, 100.0, "%", "Writing page 100 of 100"),
        result=Json(b'{"pages":100}' if status == "succeeded" else b"null"),
        error=JobError("ValueError", "There is no such customer.") if status == "failed" else None,
        submitted_at=submitted_at,
        started_at=submitted_at,
        updated_at=finished_at or submitted_at,
        finished_at=finished_at,
        expires_at=submitted_at.after(JOB_TTL_S),
    )
