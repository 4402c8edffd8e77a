"""The jobs and report templates of the load client, which fills in a sequence number and the send time."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from headway.contracts import NULL, JobReport, Json, Progress, Timestamp, encode, to_progress_snapshot
from headway.tokens import Grant, TokenSigner

WATCHED_BYTES = 200  # the size of what differs between reports: Headway's `progress`, a peer's whole message
JOBS = 5_000
HOUR_S = 3_600
TIME_PLACEHOLDER = "T=" + 19 * "0"  # the load client replaces it by CLOCK_MONOTONIC in nanoseconds
SEQUENCE_PLACEHOLDER = 987_654_321_987  # the load client replaces it by a sequence number
FILLER_BYTES = 30_000


class ReportTemplate(NamedTuple):
    """A line of the load client's file: a token, and a report split at its two placeholders."""

    token: str
    head: str
    middle: str
    tail: str

    @classmethod
    def from_report(cls, token: str, report: str) -> ReportTemplate:
        """Split a report at its placeholders."""
        head, _, rest = report.partition(str(SEQUENCE_PLACEHOLDER))
        middle, _, tail = rest.partition(TIME_PLACEHOLDER)
        return cls(token, head, middle, tail)


def write_jobs(jobs: Iterable[ReportTemplate], path: Path) -> Path:
    """Write the load client's file."""
    path.write_text("".join("\t".join(job) + "\n" for job in jobs))
    return path


def headway_jobs(signer: TokenSigner, count: int = JOBS) -> list[ReportTemplate]:
    """Return jobs for Headway."""
    now = Timestamp.now()
    ids = [uuid.uuid4() for _ in range(count)]
    return [
        ReportTemplate.from_report(_token(signer, job_id, now), encode(_report(job_id, now)).decode()) for job_id in ids
    ]


def filler_job(job: ReportTemplate) -> ReportTemplate:
    """Return the job with a report that has a result of FILLER_BYTES."""
    result = b'"%b"' % (FILLER_BYTES * b"x")
    full = job.tail.replace('"result":null', f'"result":{result.decode()}', 1)
    return job._replace(tail=full)


def peer_jobs(count: int = JOBS) -> list[ReportTemplate]:
    """Return jobs for the peers, which forward a report unchanged."""
    jobs = []
    for number in range(count):
        report = {"job": number, "sequence": SEQUENCE_PLACEHOLDER, "message": TIME_PLACEHOLDER}
        report["message"] = TIME_PLACEHOLDER + _padding(len(json.dumps(report)))
        jobs.append(ReportTemplate.from_report("", json.dumps(report)))
    return jobs


def _padding(size: int) -> str:
    return " ".ljust(WATCHED_BYTES - size, "x")


def _token(signer: TokenSigner, job_id: uuid.UUID, now: Timestamp) -> str:
    return signer.sign(Grant(job_id=job_id, kind="bench", submitted_at=now, expires_at=now.after(HOUR_S)))


def _report(job_id: uuid.UUID, now: Timestamp) -> JobReport:
    progress = Progress(40, 100, "%", TIME_PLACEHOLDER)
    message = TIME_PLACEHOLDER + _padding(len(encode(to_progress_snapshot(progress))))
    return JobReport(
        job_id=job_id,
        kind="bench",
        message_id=str(job_id),
        delivery=1,
        sequence=SEQUENCE_PLACEHOLDER,
        status="running",
        progress=Progress(40, 100, "%", message),
        result=Json(NULL),
        submitted_at=now,
        expires_at=now.after(HOUR_S),
        lease_until=now.after(HOUR_S),
        sent_at=now,
    )
