"""The composition of the worker: its resources and its background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from ..runtime.event_loop import loop_settings
from ..runtime.process_state import ProcessState
from ..runtime.queue_metrics import monitor_queue_depth
from ..runtime.service import ServiceSpec
from ..runtime.settings import ReloadingFile, read_keys
from ..runtime.tracing import open_tracing
from ..runtime.wakeup_client import WakeupClient
from . import metrics
from .consumer import Consumer
from .control import ControlListener, create_worker_id
from .delivery import DeliveryDependencies
from .execution.process_pool import ProcessPool
from .execution.runner import Runner
from .follow_ups import FollowUps
from .lease import STOP_MARGIN_FRACTION
from .logs.sender import LogSender
from .loop_watchdog import LoopWatchdog
from .presence import PresencePoster, worker_info
from .received_job import UNKNOWN_KIND
from .registry import load_jobs
from .reload import CodeReloader
from .reporting.reporter import Reporter
from .settings import WorkerSettings
from .wakeups import WakeupListener


@asynccontextmanager
async def worker(settings: WorkerSettings, reloader: CodeReloader | None = None) -> AsyncIterator[ServiceSpec]:
    """Open the worker's resources and yield its specification; with a `reloader`, it restarts when its code changes."""
    registry = load_jobs(settings.worker_jobs)
    metrics.create_series((*registry, UNKNOWN_KIND))
    report_keys, notifier_url = ReloadingFile(settings.report_key_file, read_keys), settings.notifier_internal_url
    worker_id, heartbeat_s = create_worker_id(), settings.max_report_interval_s
    async with (
        open_tracing(settings) as tracer,
        settings.queue() as queue,
        Reporter.connect(notifier_url, report_keys, heartbeat_s, worker_id) as reporter,
        ControlListener.connect(notifier_url, report_keys, worker_id, reporter, heartbeat_s) as control_listener,
        WakeupClient.connect(notifier_url, settings.queue_name) as wakeups,
        WakeupListener.connect(notifier_url, settings.queue_name, wakeups, reporter.check_notifier) as wakeup_listener,
        FollowUps.connect(notifier_url, settings.submitter_internal_url, report_keys, registry) as follow_ups,
        PresencePoster.connect(notifier_url, report_keys, worker_info(worker_id, settings, registry)) as presence,
        ProcessPool.open(settings.process_memory_mb << 20) as process_pool,
        LogSender.connect(notifier_url, report_keys) as logs,
    ):
        process_state = ProcessState(*loop_settings(asyncio.get_running_loop()))
        runner = Runner(process_pool, settings.lease_s * STOP_MARGIN_FRACTION / 2, process_state)
        deps = DeliveryDependencies(settings, queue, reporter, registry, runner, wakeups, follow_ups, logs, tracer)
        consumer = Consumer(deps, wakeup_listener, settings.worker_concurrency, settings.poll_max_s)
        yield ServiceSpec(
            tasks={
                "reporter": reporter.run,
                "log_sender": logs.run,
                "control_listener": control_listener.run,
                "wakeup_client": wakeups.run,
                "wakeup_listener": wakeup_listener.run,
                "consumer": consumer.run,
                "loop_watchdog": LoopWatchdog(runner.attempts, registry).run,
                "presence": partial(presence.run, lambda: len(runner.attempts)),
                "queue_depth": partial(monitor_queue_depth, queue, presence.on_queue_measured),
                **({} if reloader is None else {"reload": partial(reloader.watch, settings.worker_jobs)}),
            },
            unready_reasons=lambda: [] if consumer.has_polled else ["notifier and queue"],
            is_alive=consumer.is_alive,
            drain=lambda: consumer.stop(settings.grace_s),
            started_fields={"worker": worker_id, "kind_count": len(registry), "kinds": sorted(registry)},
        )
