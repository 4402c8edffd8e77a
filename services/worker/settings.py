"""What the worker can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from ..runtime.queue_settings import QueueSettings
from ..runtime.settings import Delay, Seconds, StringList


class WorkerSettings(QueueSettings, frozen=True, kw_only=True):
    """What the worker can be told."""

    service: ClassVar[str] = "worker"

    notifier_internal_url: str
    report_key_file: Path
    worker_jobs: StringList = (f"{__package__}.jobs",)  # modules and packages whose jobs this worker runs
    worker_concurrency: Annotated[int, Meta(ge=1, le=1000)] = 16  # jobs at once
    lease_s: Annotated[int, Meta(ge=1, le=7 * 86_400)] = 60  # how long a message is ours without a renewal
    heartbeat_s: Seconds = 1  # the longest time between two reports of a running job
    poll_max_s: Seconds = 10  # between two looks at an empty queue, while hints come; else 1 s at most
    grace_s: Delay = 20  # what running jobs get on SIGTERM before they are handed back
