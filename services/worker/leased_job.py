"""A job whose message this worker has leased: the message, its lease and its reports."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from headway.contracts import MAX_MESSAGE_BYTES, JobStatus, Json, Progress, StepTimes
from headway.message_codec import message_json
from headway.message_rewriting import rewrite_message

from .lease import Lease
from .logs.job_log import JobLog
from .received_job import ReceivedJob
from .reporting.report_stream import ReportStream


class LeasedJob:
    """The host of a handler: it forwards progress to the reports and saves checkpoints in the message.

    Attributes:
        job: the job as it was received.
        text: the text of the message, with the last checkpoint.
        lease: the lease of the message.
        stream: the reports of the delivery.
        log: what the handler logs and prints.
    """

    def __init__(self, job: ReceivedJob, lease: Lease, stream: ReportStream, log: JobLog) -> None:
        self.job = job
        self.text = job.received.text
        self.lease = lease
        self.stream = stream
        self.log = log
        self._released = False
        self._loop = asyncio.get_running_loop()
        self._loop_thread_id = threading.get_ident()

    @property
    def lease_deadline(self) -> float:
        """The monotonic time by which the handler must stop unless the lease is renewed."""
        return self.lease.handler_deadline

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Called when the handler reports progress, from any thread; the next report calls `collect`."""
        if threading.get_ident() != self._loop_thread_id:
            self._loop.call_soon_threadsafe(self.progress_changed, collect)
        elif not self._released:
            self.stream.progress_changed(collect)

    def steps_started(self, collect: Callable[[], tuple[StepTimes, ...]]) -> None:
        """Called when the handler begins its first step, from any thread; reports call `collect`."""
        self.stream.collect_steps = collect

    async def save_checkpoint(self, checkpoint: Json) -> None:
        """Save a checkpoint in the queue message.

        Raises:
            ValueError: with the checkpoint, the message is larger than the queue allows.
            CancelledError: the lease is lost.
        """
        text = rewrite_message(self.text, checkpoint=checkpoint, progress=None, progress_attempt=None)
        if len(text) > MAX_MESSAGE_BYTES:
            raise ValueError(
                f"the queue message with this checkpoint is {len(text)} bytes long; the limit is {MAX_MESSAGE_BYTES}"
            )
        await self.lease.save_text(text)
        self.text = text

    def kept_message(self, status: JobStatus) -> str | None:
        """Return the message to keep with the report that ends an attempt, as plain JSON, or None.

        The job can be run again with it. A message that cannot be decoded cannot be run at all.
        """
        keep = self.job.keep
        if keep == "never" or (keep == "failed" and status == "succeeded") or self.job.problem is not None:
            return None
        return message_json(self.text).decode()

    def release_text(self) -> str | None:
        """Return the text with which a draining worker releases the message, at the cost of no attempt.

        It contains the progress reached; progress that a leaked task or thread reports later is ignored, or the next
        delivery would start behind it. Return None if the message must be released unchanged, at the cost of an
        attempt: it cannot be decoded, or its new text is larger than the queue allows.
        """
        self._released = True
        if self.job.problem is not None:
            return None
        message, progress = self.job.message, self.stream.collect_progress()
        text = rewrite_message(
            self.text,
            releases=message.releases + 1,
            drains=message.drains + 1,
            progress=progress,
            progress_attempt=None if progress is None else self.job.attempt,
        )
        return text if len(text) <= MAX_MESSAGE_BYTES else None
