"""The dashboard and the rules on a running system: every query returns what the services really export."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.deploy.prometheus import NEEDS_PROMETHEUS, PrometheusServer, running_prometheus
from tests.deploy.queries import ALERTS, RECORDED, RULES_FILE, dashboard_queries
from tests.stack import ENDED, running
from tests.waiting import wait_until

pytestmark = NEEDS_PROMETHEUS

SERVICES = ("submitter", "notifier", "worker")


@pytest.fixture(scope="module")
async def prometheus(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PrometheusServer]:
    """Run the system and a Prometheus that scrapes it, while a job is watched to its end."""
    folder = tmp_path_factory.mktemp("live_dashboard")
    (folder / "prometheus").mkdir()
    async with running(folder / "system", GRACE_S="0", DRAIN_S="0") as stack:
        targets = [(service, stack.internal(service).removeprefix("http://")) for service in SERVICES]
        async with running_prometheus(folder / "prometheus", targets, [RULES_FILE]) as prometheus:
            receipt = await stack.submit(payload={"steps": 2, "delay_s": 0.01})
            statuses = [job["status"] async for job in stack.watch(receipt["token"])]
            assert statuses[-1] in ENDED
            yield prometheus


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
