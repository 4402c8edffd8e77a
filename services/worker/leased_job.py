"""A message that this worker holds: what it says by now, its lease, and the reports of its job."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from msgspec.structs import replace

from headway.contracts import MAX_MESSAGE_BYTES, JobMessage, Json, Progress, Timestamp, encode_message

from .lease import Lease
from .reporting.report_stream import ReportStream


class LeasedJob:
    """What keeps a job while its handler runs, and hears what that has to say."""

    def __init__(self, message: JobMessage, text: str, lease: Lease, stream: ReportStream) -> None:
        self.message = message
        self.text = text
        self.lease = lease
        self.stream = stream
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    @property
    def lease_deadline(self) -> float:
        """Until when the job is ours, by the monotonic clock."""
        return self.lease.handler_deadline

    @property
    def expired(self) -> bool:
        """Whether the job's time is over."""
        return self.message.expires_at is not None and self.message.expires_at < Timestamp.now()

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Have progress taken with the next report, from any thread: handlers use `asyncio.to_thread`, too."""
        if threading.get_ident() == self._thread:
            self.stream.progress_changed(collect)
        else:
            self._loop.call_soon_threadsafe(self.stream.progress_changed, collect)

    async def save_checkpoint(self, checkpoint: Json) -> None:
        """Keep a checkpoint in the message.

        Raises:
            ValueError: the message has no room for it.
        """
        message = replace(self.message, checkpoint=checkpoint)
        text = encode_message(message)
        if len(text) > MAX_MESSAGE_BYTES:
            raise ValueError(
                f"with this checkpoint the message would have {len(text)} bytes: {MAX_MESSAGE_BYTES} is the most"
            )
        await self.lease.save_text(text)
        self.message, self.text = message, text

    def release_text(self) -> str:
        """Write the message as a stopping worker hands it back: that costs no attempt."""
        return encode_message(replace(self.message, releases=self.message.releases + 1))
