"""The jobs that are reported: for each its token, and its report as pieces between which the load client writes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from headway.contracts import NULL, JobReport, Json, Progress, Timestamp, encode, to_progress_snapshot
from headway.tokens import Grant, TokenSigner

SEEN_BYTES = 200  # of what a watcher sees that is of this report alone: `progress`, or a peer's whole message
JOBS = 5_000
HOUR_S = 3_600
SENT = "T=" + 19 * "0"  # the load client writes the time, of CLOCK_MONOTONIC in nanoseconds, in its place
SEQUENCE = 987_654_321_987  # and a number in place of this one
FILLER_BYTES = 30_000


class Pieces(NamedTuple):
    """A line of the load client's file."""

    token: str
    head: str
    middle: str
    tail: str

    @classmethod
    def of(cls, token: str, report: str) -> Pieces:
        """Cut a report where its sequence and its time are."""
        head, _, rest = report.partition(str(SEQUENCE))
        middle, _, tail = rest.partition(SENT)
        return cls(token, head, middle, tail)


def write(pieces: Iterable[Pieces], path: Path) -> Path:
    """Write the load client's file."""
    path.write_text("".join("\t".join(one) + "\n" for one in pieces))
    return path


def headway(signer: TokenSigner, count: int = JOBS) -> list[Pieces]:
    """Return jobs of Headway."""
    now = Timestamp.now()
    ids = [uuid.uuid4() for _ in range(count)]
    return [Pieces.of(_token(signer, job_id, now), encode(_report(job_id, now)).decode()) for job_id in ids]


def filler(job: Pieces) -> Pieces:
    """Return a job's report that is much to take: with a long result."""
    result = b'"%b"' % (FILLER_BYTES * b"x")
    full = job.tail.replace('"result":null', f'"result":{result.decode()}', 1)
    return job._replace(tail=full)


def plain(count: int = JOBS) -> list[Pieces]:
    """Return jobs of the peers, whose watchers get a report as it is."""
    jobs = []
    for number in range(count):
        report = {"job": number, "sequence": SEQUENCE, "message": SENT}
        report["message"] = SENT + _padding(len(json.dumps(report)))
        jobs.append(Pieces.of("", json.dumps(report)))
    return jobs


def _padding(size: int) -> str:
    return " ".ljust(SEEN_BYTES - size, "x")


def _token(signer: TokenSigner, job_id: uuid.UUID, now: Timestamp) -> str:
    return signer.sign(Grant(job_id=job_id, kind="bench", submitted_at=now, expires_at=now.after(HOUR_S)))


def _report(job_id: uuid.UUID, now: Timestamp) -> JobReport:
    progress = Progress(40, 100, "%", SENT)
    message = SENT + _padding(len(encode(to_progress_snapshot(progress))))
    return JobReport(
        job_id=job_id,
        kind="bench",
        message_id=str(job_id),
        delivery=1,
        sequence=SEQUENCE,
        status="running",
        progress=Progress(40, 100, "%", message),
        result=Json(NULL),
        submitted_at=now,
        expires_at=now.after(HOUR_S),
        lease_until=now.after(HOUR_S),
        sent_at=now,
    )
