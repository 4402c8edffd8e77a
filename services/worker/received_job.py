"""The job of a received message: its fields with their defaults, or why the message cannot be decoded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import msgspec

from headway.azure.job_queue import ReceivedMessage
from headway.contracts import DEFAULT_ATTEMPTS, JobMessage, JobReport, Progress, Timestamp
from headway.jobs import DEFAULT_KEEP, Keep
from headway.labels import trace_of
from headway.message_codec import decode_message, extract_job_id
from headway.trace_context import TraceContext

from .registry import Registry

UNKNOWN_KIND = "unknown"  # of messages that cannot be decoded


@dataclass(frozen=True)
class ReceivedJob:
    """The job of a received message.

    Attributes:
        received: the message as it was received.
        message: the decoded message; if it cannot be decoded, one with its id alone.
        max_attempts: the greatest number of attempts.
        submitted_at: when the job was submitted.
        expires_at: by when the job must have started.
        keep: whether operators can run the job again after its end.
        problem: why the message cannot be decoded, None if it can.
    """

    received: ReceivedMessage
    message: JobMessage
    max_attempts: int
    submitted_at: Timestamp
    expires_at: Timestamp
    keep: Keep
    problem: str | None = None

    @classmethod
    def read(cls, received: ReceivedMessage, registry: Registry, job_ttl_s: float) -> ReceivedJob:
        """Return the job of a message.

        Args:
            received: the message.
            registry: the jobs of this worker; a kind has its own default of `max_attempts`.
            job_ttl_s: the default of `expires_at`, counted from the submission.

        Raises:
            msgspec.DecodeError: the message does not even contain the id of a job.
        """
        problem = None
        try:
            message = decode_message(received.text)
        except msgspec.DecodeError as error:
            job_id, problem = extract_job_id(received.text), str(error)
            if job_id is None:
                raise
            message = JobMessage(id=job_id, kind=UNKNOWN_KIND)
        submitted_at = message.submitted_at or received.inserted_at
        expires_at = message.expires_at or submitted_at.after(job_ttl_s)
        job = registry.get(message.kind)
        max_attempts = message.max_attempts or (DEFAULT_ATTEMPTS if job is None else job.max_attempts)
        keep = DEFAULT_KEEP if job is None else job.keep
        return cls(received, message, max_attempts, submitted_at, expires_at, keep, problem)

    @property
    def attempt(self) -> int:
        """The number of this delivery's attempt, from 1; greater than `max_attempts` if no attempt is left."""
        return self.message.attempt(self.received.delivery)

    @property
    def reported_attempt(self) -> int:
        """The number of the attempt as users see it: a delivery after the last attempt only reports the failure."""
        return min(self.attempt, self.max_attempts)

    @property
    def due_at(self) -> Timestamp:
        """When the job may start for the first time: at its submission, or at the end of its `delay_s`."""
        return max(self.submitted_at, self.message.due_at or self.submitted_at)

    @property
    def expired(self) -> bool:
        """Whether `expires_at` has passed, by the queue's clock."""
        return self.expires_at < self.received.queue_time()

    @property
    def progress(self) -> Progress | None:
        """The progress with which the delivery starts: that of an earlier delivery in the same attempt."""
        belongs_here = self.message.progress_attempt in (None, self.attempt)
        return self.message.progress if belongs_here else None

    @cached_property
    def trace(self) -> TraceContext | None:
        """The span of the job's submission, if it was submitted in a trace."""
        return trace_of(self.message.labels)

    def first_report(self) -> JobReport:
        """Return the state with which the reports of this delivery begin."""
        message = self.message
        return JobReport(
            job_id=message.id,
            kind=message.kind,
            generation=message.generation,
            message_id=self.received.id,
            delivery=self.received.delivery,
            sequence=0,
            attempt=self.reported_attempt,
            max_attempts=self.max_attempts,
            status="running",
            progress=self.progress,
            submitted_at=self.submitted_at,
            expires_at=self.expires_at,
            labels=message.labels,
        )
