"""A job whose message this worker has leased: the message, its lease and its reports."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from msgspec.structs import replace

from headway.contracts import MAX_MESSAGE_BYTES, JobMessage, Json, Progress, Timestamp, encode_message

from .lease import Lease
from .reporting.report_stream import ReportStream


class LeasedJob:
    """The host of a handler: it forwards progress to the reports and saves checkpoints in the message."""

    def __init__(self, message: JobMessage, text: str, lease: Lease, stream: ReportStream) -> None:
        self.message = message
        self.text = text
        self.lease = lease
        self.stream = stream
        self._loop = asyncio.get_running_loop()
        self._loop_thread_id = threading.get_ident()

    @property
    def lease_deadline(self) -> float:
        """The monotonic time by which the handler must stop unless the lease is renewed."""
        return self.lease.handler_deadline

    @property
    def expired(self) -> bool:
        """Whether the job's `expires_at` has passed."""
        return self.message.expires_at is not None and self.message.expires_at < Timestamp.now()

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Called when the handler reports progress, from any thread; the next report calls `collect`."""
        if threading.get_ident() == self._loop_thread_id:
            self.stream.progress_changed(collect)
        else:
            self._loop.call_soon_threadsafe(self.stream.progress_changed, collect)

    async def save_checkpoint(self, checkpoint: Json) -> None:
        """Save a checkpoint in the queue message.

        Raises:
            ValueError: with the checkpoint, the message is larger than the queue allows.
            CancelledError: the lease is lost.
        """
        message = replace(self.message, checkpoint=checkpoint)
        text = encode_message(message)
        if len(text) > MAX_MESSAGE_BYTES:
            raise ValueError(
                f"the queue message with this checkpoint is {len(text)} bytes long; the limit is {MAX_MESSAGE_BYTES}"
            )
        await self.lease.save_text(text)
        self.message, self.text = message, text

    def release_text(self) -> str:
        """Return the text of the released message: with one more release, so that the delivery costs no attempt."""
        return encode_message(replace(self.message, releases=self.message.releases + 1))
