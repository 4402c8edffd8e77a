"""The worker's parts, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from ..runtime.service import ServiceSpec
from ..runtime.settings import ReloadingFile, read_keys
from ..runtime.wakeup_client import WakeupClient
from .consumer import Consumer
from .delivery import DeliveryDependencies
from .execution.process_pool import ProcessPool
from .execution.runner import Runner
from .queue_metrics import monitor_queue_depth
from .registry import load_jobs
from .reload import CodeReloader
from .reporting.reporter import Reporter
from .settings import WorkerSettings
from .wakeups import WakeupListener


@asynccontextmanager
async def worker(settings: WorkerSettings, reload: CodeReloader | None = None) -> AsyncIterator[ServiceSpec]:
    """Open the worker's resources and hand its parts to the chassis."""
    registry = load_jobs(settings.worker_jobs)
    keys, notifier = ReloadingFile(settings.report_key_file, read_keys), settings.notifier_internal_url
    async with (
        settings.queue() as queue,
        Reporter.connect(notifier, keys, settings.heartbeat_s) as reporter,
        WakeupClient.connect(notifier) as waker,
        WakeupListener.connect(notifier, waker) as hints,
        ProcessPool.open() as processes,
    ):
        tools = DeliveryDependencies(
            queue, reporter, registry, Runner(processes), settings.lease_s, settings.job_ttl_s, waker
        )
        consumer = Consumer(tools, hints, settings.worker_concurrency, settings.poll_max_s)
        yield ServiceSpec(
            tasks={
                "reporter": reporter.run,
                "waker": waker.run,
                "hints": hints.run,
                "consumer": consumer.run,
                "depth": partial(monitor_queue_depth, queue),
                **({} if reload is None else {"reload": partial(reload.watch, settings.worker_jobs)}),
            },
            unready_reasons=lambda: [] if consumer.polled else ["notifier and queue"],
            is_alive=consumer.is_alive,
            drain=lambda: consumer.stop(settings.grace_s),
        )
