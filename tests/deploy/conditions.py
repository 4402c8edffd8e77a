"""Six conditions that hurt users, caused for real on a running system that Prometheus scrapes.

They run at the same time, as far as they do not disturb each other, and end as they would for an operator: the fault
ends, or good events outweigh the bad ones. So the expressions keep their real ranges.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from headway.azure.job_queue import JobQueue
from headway.contracts import JobMessage
from headway.message_codec import encode_message
from tests.deploy.prometheus import PrometheusServer, running_prometheus
from tests.integration.conftest import running_notifier
from tests.integration.tcp_proxy import TcpProxy
from tests.integration.worker_fleet import IDLE_WORKER, WorkerFleet, WorkerProcess, run_workers
from tests.stack import JOBS, Stack, running
from tests.waiting import wait_until

RULES = ROOT / "deploy/k8s/components/monitoring/rules.yaml"
ALERTED_WITHIN_S = 60
OBJECTIVE_S = 30  # by when 99 % of the jobs should have started
FOREIGN_ORIGIN = "https://shop.example"
STARVING_QUEUE = "starving"
FAILING_KIND = "until-file-exists"


class Conditions:
    """The system, and what the expressions of its alerts were.

    `seen` has, by alert, whether its expression was true: before its condition, during it and after it.
    """

    def __init__(self, stack: Stack, prometheus: PrometheusServer) -> None:
        self.seen: dict[str, list[bool]] = defaultdict(list)
        self._stack = stack
        self._prometheus = prometheus
        rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
        self._expressions = {rule["alert"]: rule["expr"] for rule in rules if "alert" in rule}
        self._jobs_have_stalled = asyncio.Event()

    async def cause(self, fleet: WorkerFleet, worker: WorkerProcess, to_redis: TcpProxy, to_notifier: TcpProxy) -> None:
        """Cause all conditions, and wait until each of them is over.

        Args:
            fleet: the workers.
            worker: the only one that receives jobs of the usual queue.
            to_redis: leads a replica of the notifier to Redis.
            to_notifier: leads the worker of STARVING_QUEUE to the notifier.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._silence_redis(to_redis))
            group.create_task(self._starve_a_worker(to_notifier))
            group.create_task(self._refuse_browsers())
            group.create_task(self._stop_and_fail_jobs(worker, fleet.folder / "cable"))

    async def _expect(self, alert: str, *, true: bool, **labels: str) -> None:
        """Wait until the expression of an alert is true for a series with these labels, or for none."""

        async def is_as_expected() -> bool:
            series = [found["metric"] for found in await self._prometheus.query(self._expressions[alert])]
            return any(labels.items() <= metric.items() for metric in series) is true

        await wait_until(is_as_expected, ALERTED_WITHIN_S, poll_s=0.2)
        self.seen[alert].append(true)

    async def _silence_redis(self, to_redis: TcpProxy) -> None:
        """Forward nothing between a replica and Redis; the connections stay open."""
        await self._expect("NotifierReplicaWithoutRedis", true=False)
        to_redis.pause()
        await self._expect("NotifierReplicaWithoutRedis", true=True, service="notifier")
        to_redis.resume()
        await self._expect("NotifierReplicaWithoutRedis", true=False)

    async def _starve_a_worker(self, to_notifier: TcpProxy) -> None:
        """Put a job on the queue of a worker that cannot reach the notifier."""
        await self._expect("WorkersStarving", true=False)
        to_notifier.pause()
        async with JobQueue.connect(self._stack.env["QUEUE_CONNECTION_STRING"], STARVING_QUEUE) as queue:
            await queue.send(encode_message(JobMessage(id=uuid4(), kind="echo")))
        await self._expect("WorkersStarving", true=True)
        await self._jobs_have_stalled.wait()  # which the start of this job would end
        to_notifier.resume()
        await self._expect("WorkersStarving", true=False)

    async def _refuse_browsers(self) -> None:
        """Watch as pages of an origin that is not allowed, and then as many pages of one that is."""
        refused = {"code": "origin_not_allowed", "origin": "other"}
        await self._expect("WatchersRefused", true=False)
        for _ in range(10):
            status = await self._connect(FOREIGN_ORIGIN)
            assert status == 403
        await self._expect("WatchersRefused", true=True, **refused)
        for _ in range(400):
            status = await self._connect(self._stack.url.rstrip("/"))
            assert status == 101
        await self._expect("WatchersRefused", true=False)

    async def _connect(self, origin: str) -> int:
        """Open a WebSocket as a page of an origin does; return the status of the response."""
        try:
            async with self._stack.session.ws_connect(
                f"{self._stack.env['LIVE_URL']}/live", headers={"Origin": origin}
            ):
                return 101
        except aiohttp.WSServerHandshakeError as error:
            return error.status

    async def _stop_and_fail_jobs(self, worker: WorkerProcess, file: Path) -> None:
        """Stop the only worker, so that jobs wait; start it again, and submit jobs that fail, and then others."""
        for alert in ("JobsStalled", "JobsStartLatencyBudgetBurn", "JobsFailureRatioHigh"):
            await self._expect(alert, true=False)
        await worker.stop()
        submitted_at = time.monotonic()
        for _ in range(6):
            await self._stack.submit("echo")
        await self._expect("JobsStalled", true=True, queue="jobs")
        self._jobs_have_stalled.set()
        await wait_until(lambda: time.monotonic() - submitted_at > OBJECTIVE_S + 2)
        await worker.start()
        await self._expect("JobsStartLatencyBudgetBurn", true=True)
        await self._expect("JobsStalled", true=False)
        for _ in range(4):
            await self._stack.submit(FAILING_KIND, str(file))
        await self._expect("JobsFailureRatioHigh", true=True, kind=FAILING_KIND)
        file.touch()
        for _ in range(120):
            await self._stack.submit(FAILING_KIND, str(file))
        await self._expect("JobsFailureRatioHigh", true=False)
        await self._expect("JobsStartLatencyBudgetBurn", true=False)


@asynccontextmanager
async def caused_conditions(folder: Path) -> AsyncIterator[Conditions]:
    """Run a system with a second replica and a second worker behind proxies, and cause the conditions.

    An error of a condition is raised when the block ends, so that `seen` shows which others were as expected.
    """
    async with (
        running(folder / "system", WORKER_JOBS=JOBS, GRACE_S="0", DRAIN_S="0", **IDLE_WORKER) as stack,
        TcpProxy.running(lambda: [int(stack.env["VALKEY_PORT"])]) as to_redis,
        TcpProxy.running(lambda: [int(stack.env["NOTIFIER_INTERNAL_PORT"])]) as to_notifier,
        running_notifier({"REDIS_URL": f"redis://127.0.0.1:{to_redis.port}/0"}, folder / "system/keys") as replica,
        run_workers(stack, folder / "workers", 1, WORKER_JOBS=JOBS, LEASE_S="60") as fleet,
    ):
        notifier_url = f"http://127.0.0.1:{to_notifier.port}"
        await fleet.add(WORKER_QUEUE_NAME=STARVING_QUEUE, NOTIFIER_INTERNAL_URL=notifier_url)
        services: list[tuple[str, Any]] = [
            ("submitter", stack.internal("submitter")),
            ("notifier", stack.internal("notifier")),
            ("notifier", replica.internal),
            *(("worker", worker.internal) for worker in fleet.workers),
        ]
        targets = [(service, url.removeprefix("http://")) for service, url in services]
        async with running_prometheus(folder, targets, [RULES]) as prometheus:
            conditions = Conditions(stack, prometheus)
            causing = asyncio.create_task(conditions.cause(fleet, fleet.workers[0], to_redis, to_notifier))
            await asyncio.wait({causing})
            yield conditions
            await causing
