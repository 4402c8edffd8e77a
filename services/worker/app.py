"""The worker's parts, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from services.runtime.service import ServiceSpec
from services.runtime.settings import ReloadingFile, read_keys
from services.runtime.wakeup_client import WakeupClient
from services.worker.consumer import Consumer
from services.worker.delivery import Tools
from services.worker.depth import watch_depth
from services.worker.hints import Hints
from services.worker.processes import Processes
from services.worker.registry import find_jobs
from services.worker.reload import Reload
from services.worker.reporter import Reporter
from services.worker.runner import Runner
from services.worker.settings import WorkerSettings


@asynccontextmanager
async def worker(settings: WorkerSettings, reload: Reload | None = None) -> AsyncIterator[ServiceSpec]:
    """Open the worker's resources and hand its parts to the chassis."""
    registry = find_jobs(settings.worker_jobs)
    keys, notifier = ReloadingFile(settings.report_key_file, read_keys), settings.notifier_internal_url
    async with (
        settings.queue() as queue,
        Reporter.connect(notifier, keys, settings.heartbeat_s) as reporter,
        WakeupClient.connect(notifier) as waker,
        Hints.connect(notifier, waker) as hints,
        Processes.open() as processes,
    ):
        tools = Tools(queue, reporter, registry, Runner(processes), settings.lease_s, settings.job_ttl_s, waker)
        consumer = Consumer(tools, hints, settings.worker_concurrency, settings.poll_max_s)
        yield ServiceSpec(
            tasks={
                "reporter": reporter.run,
                "waker": waker.run,
                "hints": hints.run,
                "consumer": consumer.run,
                "depth": partial(watch_depth, queue),
                **({} if reload is None else {"reload": partial(reload.watch, settings.worker_jobs)}),
            },
            unready_reasons=lambda: [] if consumer.polled else ["notifier and queue"],
            is_alive=consumer.alive,
            drain=lambda: consumer.stop(settings.grace_s),
        )
