"""What Prometheus reads of the running services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from azure.core.exceptions import ServiceRequestError
from prometheus_client import REGISTRY

from headway.azure.job_queue import JobQueue, QueueDepth
from headway.contracts import Timestamp
from services.worker import queue_metrics
from services.worker.queue_metrics import monitor_queue_depth
from tests.integration.conftest import Notifier, new_id, report
from tests.stack import JOBS, Stack, running
from tests.waiting import wait_until

SERVICES = ["submitter", "notifier", "worker"]


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    async with running(tmp_path_factory.mktemp("metrics"), WORKER_JOBS=JOBS, GRACE_S="0", DRAIN_S="0") as stack:
        yield stack


@pytest.mark.parametrize("service", SERVICES)
async def test_both_formats_are_told(stack: Stack, service: str) -> None:
    """Text by default, OpenMetrics with its end mark for those that ask for it, and the loop is measured meanwhile."""
    url = f"{stack.internal(service)}/metrics"
    async with stack.session.get(url) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        text = await response.text()
    assert "# EOF" not in text
    assert 'headway_build_info{python="3.' in text
    assert "_created" not in text
    headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with stack.session.get(url, headers=headers) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert (await response.text()).endswith("# EOF\n")

    async def measured() -> bool:
        return await stack.metric("event_loop_lag_seconds_count", service) > 0

    await wait_until(measured)


async def test_a_job_leaves_its_figures(stack: Stack) -> None:
    """Submission, wait in the queue, run, reports and delivery of one job are measured where they happen."""
    receipt = await stack.submit("echo", 1)
    assert [job async for job in stack.watch(receipt["token"])][-1]["status"] == "succeeded"
    figures = {
        "submitter": ['jobs_submitted_total{outcome="accepted"}', "jobs_enqueue_duration_seconds_count"],
        "worker": [
            'jobs_queue_wait_seconds_count{kind="echo"}',
            'jobs_duration_seconds_count{kind="echo"}',
            'jobs_finished_total{outcome="succeeded"}',
            'jobs_started_total{kind="echo"}',
            'jobs_end_to_end_seconds_count{kind="echo"}',
            "worker_report_duration_seconds_count",
        ],
        "notifier": [
            'notifier_connections_opened_total{transport="websocket"}',
            "notifier_pubsub_lag_seconds_count",
            'notifier_reports_total{verdict="accepted"}',
            "notifier_delivery_latency_seconds_count",
        ],
    }
    for service, names in figures.items():
        for name in names:

            async def measured(service: str = service, name: str = name) -> bool:
                return await stack.metric(name, service) > 0

            await wait_until(measured)


async def test_the_way_from_the_worker_to_the_socket_is_measured(notifier: Notifier) -> None:
    """From the sending of a report to the write, of watched jobs alone, once for each report."""
    watched, other = new_id(), new_id()
    sent_at = str(Timestamp.now().after(-1))
    same = {name: report(watched, 1)[name] for name in ("submitted_at", "expires_at", "lease_until")}
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(watched)})
        await socket.receive_json(timeout=10)
        await notifier.report(report(watched, 1, sent_at=sent_at, **same), report(other, 1, sent_at=sent_at))
        assert (await socket.receive_json(timeout=10))["job"]["status"] == "running"
        for sequence in (
            1,
            2,
        ):  # refused, and accepted without a change: neither is sent, nor taken for what comes next
            await notifier.report(report(watched, sequence, sent_at=sent_at, **same))
        await socket.send_json({"cancel": watched})
        assert (await socket.receive_json(timeout=10))["job"]["cancel_requested"]
        assert await notifier.metric("notifier_delivery_latency_seconds_count") == 1
        assert 1 <= await notifier.metric("notifier_delivery_latency_seconds_sum") < 20


async def test_the_depth_of_the_queue_is_measured(stores: dict[str, str]) -> None:
    """Waiting, leased and delayed messages, the age of the next one, and what nobody could handle."""
    async with JobQueue.connect(stores["QUEUE_CONNECTION_STRING"], "deep") as queue:
        assert await queue.depth() == QueueDepth(0, 0, None)
        before = Timestamp.now()
        await queue.send("a")
        await queue.receive(1, 60)
        await queue.send("b")
        await queue.send("c", delay_s=60)
        await queue.poison("d")
        depth = await queue.depth()
        assert (depth.messages, depth.poison_messages) == (3, 1)
        assert depth.oldest_at is not None
        assert before - 1000 <= depth.oldest_at <= Timestamp.now()  # Azurite counts in seconds
        measuring = asyncio.create_task(monitor_queue_depth(queue))
        gauges = {"jobs_queue_messages": 3.0, "jobs_poison_messages": 1.0}
        await wait_until(
            lambda: all(REGISTRY.get_sample_value(name, {"queue": "deep"}) == value for name, value in gauges.items())
        )
        assert (REGISTRY.get_sample_value("jobs_queue_oldest_message_age_seconds", {"queue": "deep"}) or 0) < 60
        measuring.cancel()


async def test_a_queue_that_is_away_is_measured_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker lives on, and its figures are those of before."""
    monkeypatch.setattr(queue_metrics, "MEASURE_INTERVAL_S", 0.01)
    calls = 0

    class Away:
        name = "away"

        async def depth(self) -> QueueDepth:
            nonlocal calls
            calls += 1
            if calls < 3:
                raise ServiceRequestError("away")
            return QueueDepth(7, 0, None)

    measuring = asyncio.create_task(monitor_queue_depth(Away()))  # type: ignore[arg-type]
    await wait_until(lambda: REGISTRY.get_sample_value("jobs_queue_messages", {"queue": "away"}) == 7)
    measuring.cancel()
