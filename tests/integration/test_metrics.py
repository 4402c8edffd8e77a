"""The metrics of the running services, as Prometheus scrapes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from azure.core.exceptions import ServiceRequestError
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from headway.azure.job_queue import JobQueue, QueueDepth
from headway.contracts import Timestamp
from services.runtime import queue_metrics
from services.runtime.queue_metrics import monitor_queue_depth
from services.worker.metrics import OUTCOMES
from tests.integration.conftest import Notifier, new_id, report
from tests.stack import JOBS, Stack, running
from tests.waiting import PATIENCE_S, wait_until

SERVICES = ["submitter", "notifier", "worker"]
ROUTES = {
    "submitter": ("/jobs", "/jobs/{id}/token"),
    "notifier": ("/reports", "/wake", "/live/jobs/{id}", "/live"),
    "worker": (),
}


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    async with running(tmp_path_factory.mktemp("metrics"), WORKER_JOBS=JOBS, GRACE_S="0", DRAIN_S="0") as stack:
        yield stack


@pytest.mark.parametrize("service", SERVICES)
async def test_metrics_are_served_in_both_formats(stack: Stack, service: str) -> None:
    """A scraper gets OpenMetrics if it accepts that, otherwise the text format; both include the event loop's lag."""
    url = f"{stack.internal(service)}/metrics"
    async with stack.session.get(url) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        text = await response.text()
    assert "# EOF" not in text
    assert "\nheadway_build_info{" in text
    assert "_created" not in text
    headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with stack.session.get(url, headers=headers) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert (await response.text()).endswith("# EOF\n")

    async def lag_measured() -> bool:
        return await stack.metric("event_loop_lag_seconds_count", service) > 0

    await wait_until(lag_measured)


@pytest.mark.parametrize("service", SERVICES)
async def test_counters_start_at_zero(stack: Stack, service: str) -> None:
    """Each counter with labels has series before its first event, since Prometheus sees no increase from none to 1."""
    async with stack.session.get(f"{stack.internal(service)}/metrics") as response:
        families = list(text_string_to_metric_families(await response.text()))
    counters = {family.name: family.samples for family in families if family.type == "counter"}
    assert all(counters.values()), [name for name, samples in counters.items() if not samples]
    requests = {(sample.labels["route"], sample.labels["code"]) for sample in counters["http_requests"]}
    for route in ("/livez", *ROUTES[service]):
        assert {(route, "500"), (route, "503")} <= requests
    if service != "worker":
        async with stack.session.get(f"{stack.env[f'{service.upper()}_URL']}/openapi.yaml") as response:
            paths = yaml.safe_load(await response.text())["paths"]
        documented = {
            (path, str(code))
            for path, operations in paths.items()
            for method, operation in operations.items()
            if method != "parameters"
            for code in operation["responses"]
        }
        assert documented <= requests | {(path, "default") for path in paths}
        assert ("unmatched", "403") in requests  # of the preflight of a page whose origin is not allowed
    if service == "worker":
        finished = {(sample.labels["kind"], sample.labels["outcome"]) for sample in counters["jobs_finished"]}
        started = {sample.labels["kind"] for sample in counters["jobs_started"]}
        assert {"countdown", "echo", "unknown"} <= started
        assert finished == {(kind, outcome) for kind in started for outcome in OUTCOMES}


async def test_submitter_and_worker_measure_the_queue(stack: Stack) -> None:
    """The series of the queue have the same names and labels, so those of the submitter remain without a worker."""
    for service in ("submitter", "worker"):
        for name in ("jobs_queue_messages", "jobs_queue_oldest_message_age_seconds", "jobs_poison_messages"):

            async def is_measured(service: str = service, name: str = name) -> bool:
                async with stack.session.get(f"{stack.internal(service)}/metrics") as response:
                    return f'{name}{{queue="jobs"}}' in await response.text()

            await wait_until(is_measured)


async def test_each_service_measures_its_part_of_a_job(stack: Stack, tmp_path: Path) -> None:
    """The submitter, the worker and the notifier each measure their part of one job."""
    file = tmp_path / "file"
    receipt = await stack.submit("wait-for-file", str(file))
    status = None
    async for job in stack.watch(receipt["token"]):
        status = job["status"]
        if status == "running":

            async def has_an_age() -> bool:
                return await stack.metric("notifier_stalest_running_job_seconds") > 0

            await wait_until(has_an_age)
            file.touch()  # now that the job is watched, its end is pushed
    assert status == "succeeded"
    expected = {
        "submitter": ['jobs_submitted_total{outcome="accepted"}', "jobs_enqueue_duration_seconds_count"],
        "worker": [
            'jobs_queue_wait_seconds_count{kind="wait-for-file"}',
            'jobs_duration_seconds_count{kind="wait-for-file"}',
            'jobs_finished_total{outcome="succeeded"}',
            'jobs_started_total{kind="wait-for-file"}',
            'jobs_end_to_end_seconds_count{kind="wait-for-file"}',
            "worker_report_duration_seconds_count",
        ],
        "notifier": [
            'notifier_connections_opened_total{transport="websocket"}',
            "notifier_pubsub_lag_seconds_count",
            'notifier_reports_total{verdict="accepted"}',
            "notifier_delivery_latency_seconds_count",
        ],
    }
    for service, names in expected.items():
        for name in names:

            async def counted(service: str = service, name: str = name) -> bool:
                return await stack.metric(name, service) > 0

            await wait_until(counted)


async def test_delivery_latency_is_measured_once_per_report(notifier: Notifier) -> None:
    """The latency runs from the worker's report to the write to the watchers; jobs without watchers do not count."""
    watched, unwatched = new_id(), new_id()
    sent_at = str(Timestamp.now().after(-1))
    times = {name: report(watched, 1)[name] for name in ("submitted_at", "expires_at", "lease_until")}
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(watched)})
        await socket.receive_json(timeout=PATIENCE_S)
        await notifier.report(report(watched, 1, sent_at=sent_at, **times), report(unwatched, 1, sent_at=sent_at))
        assert (await socket.receive_json(timeout=PATIENCE_S))["job"]["status"] == "running"
        # Neither is published: the first is rejected, the second changes nothing. So the cancellation that follows
        # must not be measured from their `sent_at`.
        for sequence in (1, 2):
            await notifier.report(report(watched, sequence, sent_at=sent_at, **times))
        await socket.send_json({"cancel": watched})
        assert (await socket.receive_json(timeout=PATIENCE_S))["job"]["cancel_requested"]
        assert await notifier.metric("notifier_delivery_latency_seconds_count") == 1
        assert 1 <= await notifier.metric("notifier_delivery_latency_seconds_sum") < 20


async def test_resumes_are_counted(notifier: Notifier) -> None:
    """A subscription with a version is a hit if the job still has its record; one without a version does not count."""
    known, unknown = new_id(), new_id()
    await notifier.report(report(known, 1))
    names = [f'notifier_resumes_total{{outcome="{outcome}"}}' for outcome in ("hit", "miss")]
    before = [await notifier.metric(name) for name in names]
    async with notifier.socket() as socket:
        for watch in ({"watch": notifier.token(known), "version": 1}, {"watch": notifier.token(unknown), "version": 1}):
            await socket.send_json(watch)
            await socket.receive_json(timeout=PATIENCE_S)
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(known)})
        await socket.receive_json(timeout=PATIENCE_S)
    assert [await notifier.metric(name) for name in names] == [value + 1 for value in before]


async def test_queue_depth_is_measured(stores: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting, leased, delayed and poison messages count, and the age of the oldest one by the queue's clock."""
    async with JobQueue.connect(stores["QUEUE_CONNECTION_STRING"], "deep") as queue:
        assert await queue.depth() == QueueDepth(0, 0, 0)
        before = Timestamp.now()
        await queue.send("a")
        await queue.receive(1, 60)
        await queue.send("b")
        await queue.send("c", delay_s=60)
        await queue.poison("d")
        depth = await queue.depth()
        assert (depth.messages, depth.poison_messages) == (3, 1)
        assert 0 <= depth.oldest_age_s <= (Timestamp.now() - before) / 1000 + 1  # Azurite counts in seconds
        wrong_time = before.after(86_400)
        monkeypatch.setattr(Timestamp, "now", lambda: wrong_time)
        monitor = asyncio.create_task(monitor_queue_depth(queue))
        expected = {"jobs_queue_messages": 3.0, "jobs_poison_messages": 1.0}
        await wait_until(
            lambda: all(REGISTRY.get_sample_value(name, {"queue": "deep"}) == value for name, value in expected.items())
        )
        assert (REGISTRY.get_sample_value("jobs_queue_oldest_message_age_seconds", {"queue": "deep"}) or 0) < 60
        monitor.cancel()


async def test_queue_depth_is_measured_after_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unavailable queue does not stop the worker's measurements."""
    monkeypatch.setattr(queue_metrics, "MEASURE_INTERVAL_S", 0.01)
    calls = 0

    class UnavailableQueue:
        name = "unavailable"

        async def depth(self) -> QueueDepth:
            nonlocal calls
            calls += 1
            if calls < 3:
                raise ServiceRequestError("unavailable")
            return QueueDepth(7, 0, 0)

    monitor = asyncio.create_task(monitor_queue_depth(UnavailableQueue()))  # type: ignore[arg-type]
    await wait_until(lambda: REGISTRY.get_sample_value("jobs_queue_messages", {"queue": "unavailable"}) == 7)
    monitor.cancel()
