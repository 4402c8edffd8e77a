"""The dashboard and the rules on a running system: every query returns what the services really export."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest

from dev.environment import ROOT
from tests.deploy.prometheus import NEEDS_PROMETHEUS, PrometheusServer, running_prometheus
from tests.deploy.queries import ALERTS, RECORDED, RULES_FILE, dashboard_queries
from tests.stack import Stack, running
from tests.waiting import PATIENCE_S, wait_until

pytestmark = NEEDS_PROMETHEUS

SERVICES = ("submitter", "notifier", "worker")


@pytest.fixture(scope="module")
async def prometheus(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PrometheusServer]:
    """Run the system, a Prometheus that scrapes it, and the load of compose.yaml."""
    folder = tmp_path_factory.mktemp("live_dashboard")
    (folder / "prometheus").mkdir()
    async with running(folder / "system", GRACE_S="0", DRAIN_S="0") as stack:
        targets = [(service, stack.internal(service).removeprefix("http://")) for service in SERVICES]
        async with running_prometheus(folder / "prometheus", targets, [RULES_FILE]) as prometheus, running_load(stack):
            yield prometheus


@asynccontextmanager
async def running_load(stack: Stack) -> AsyncIterator[None]:
    """Run the script of the profile `load` until the block ends; it must not end by itself."""
    addresses = {"LOAD_URL": stack.url, "LOAD_LIVE_URL": stack.env["LIVE_URL"], "LOAD_JOBS_PER_S": "2"}
    script = ROOT / "deploy/compose/load.py"
    process = await asyncio.create_subprocess_exec(sys.executable, script, env=os.environ | addresses)
    try:
        yield
        assert process.returncode is None
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE_S)


async def test_load_is_watched(prometheus: PrometheusServer) -> None:
    """Jobs succeed, and their snapshots are sent to a client that stays connected."""
    for query in (
        'sum(jobs_finished_total{outcome="succeeded"}) > 3',
        "sum(notifier_messages_sent_total) > 10",
        'sum(notifier_connections{transport="websocket"}) == 1',
    ):
        await wait_until(partial(prometheus.query, query), poll_s=0.5)


async def test_every_query_of_the_dashboard_returns_a_series(prometheus: PrometheusServer) -> None:
    """Each panel shows something for the namespace, job and replicas that its variables offer."""
    queries = dashboard_queries(job="headway", instance="127.0.0.1:.*")
    without: list[str] = []

    async def all_return_series() -> bool:
        without[:] = [name for name, query in queries.items() if not await prometheus.query(query)]
        return not without

    with suppress(AssertionError):
        await wait_until(all_return_series, poll_s=0.5)
    assert without == []


async def test_rules_are_evaluated(prometheus: PrometheusServer) -> None:
    """Each series of the rules is recorded, and each expression of an alert can be evaluated."""

    async def all_recorded() -> bool:
        return all([await prometheus.query(record) for record in RECORDED])

    await wait_until(all_recorded, poll_s=0.5)
    for rule in ALERTS.values():
        await prometheus.query(rule["expr"])
