"""The settings of the worker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from ..runtime.queue_settings import QueueSettings
from ..runtime.settings import Delay, Seconds, StringList


class WorkerSettings(QueueSettings, frozen=True, kw_only=True):
    """The settings of the worker, read from environment variables of the same names in upper case."""

    service: ClassVar[str] = "worker"

    notifier_internal_url: str
    report_key_file: Path
    worker_jobs: StringList = ()  # modules and packages with @job functions, besides the built-in ones
    worker_concurrency: Annotated[int, Meta(ge=1, le=1000)] = 16  # jobs that run at the same time
    lease_s: Annotated[int, Meta(ge=1, le=7 * 86_400)] = 60  # the visibility timeout of a received message
    heartbeat_s: Seconds = 1  # the longest interval between two reports of a running job
    poll_max_s: Seconds = 10  # the longest interval between polls of an empty queue; without wake-ups at most 1 s
    grace_s: Delay = 20  # on SIGTERM, how long running jobs may continue before they are released
