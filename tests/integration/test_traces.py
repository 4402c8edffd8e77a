"""Traces through the whole system, as a collector of OpenTelemetry receives them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid5

import pytest

from services.worker.follow_ups import NAMESPACE
from tests.documents import Document
from tests.stack import JOBS, Stack, running
from tests.trace_collector import ReceivedSpan, TraceCollector, trace_collector
from tests.waiting import wait_until

SECRET = "the-customer-s-card"
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RECORDED = f"00-{TRACE_ID}-{SPAN_ID}-01"
DOC = Document("docs/traces.md")
((_, EXAMPLE),) = DOC.examples("python")
HEADWAY_SPANS = {name for cell, *_ in DOC.table("Spans") for name in re.findall(r"`([^`]+)`", cell)}
OWN_SPANS = {"charge the customer", "resize the photo"}


class TracedSystem:
    """The running system and the collector of its spans."""

    def __init__(self, stack: Stack, collector: TraceCollector) -> None:
        self.stack = stack
        self.collector = collector

    async def submit(self, kind: str, payload: Any = None, traceparent: str | None = None, **fields: Any) -> Any:
        """Submit a job in a trace; return its receipt."""
        headers = {} if traceparent is None else {"traceparent": traceparent}
        body = {"kind": kind, "payload": payload, **fields}
        async with self.stack.session.post(f"{self.stack.url}/jobs", json=body, headers=headers) as response:
            assert response.status == 202
            return await response.json()

    async def run(self, kind: str, payload: Any = None, traceparent: str | None = None, **fields: Any) -> Any:
        """Submit a job; return its receipt and its last snapshot."""
        receipt = await self.submit(kind, payload, traceparent, **fields)
        snapshots = [snapshot async for snapshot in self.stack.watch(receipt["token"])]
        return receipt, snapshots[-1]

    async def attempt(self, receipt: Any) -> ReceivedSpan:
        """Return the span of the only attempt of a job."""
        return await self.collector.find("process jobs", id=receipt["id"])

    async def operate(self, receipt: Any, action: str) -> Any:
        """Redrive or rerun a job; return the response."""
        async with self.stack.session.post(f"{self.stack.url}/jobs/{receipt['id']}/{action}", json={}) as response:
            assert response.ok, await response.text()
            return await response.json()

    async def details(self, receipt: Any) -> Any:
        """Return the details of a job."""
        body = {"job": receipt["id"], "scope": "watch details"}
        async with self.stack.session.post(f"{self.stack.url}/tokens", json=body) as response:
            headers = {"Authorization": f"Bearer {(await response.json())['token']}"}
        async with self.stack.session.get(f"{receipt['links']['live']}/details", headers=headers) as response:
            return await response.json()


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TracedSystem]:
    """Run the system for this module; at its end, no span has a payload, and none is about anything but a job."""
    folder = tmp_path_factory.mktemp("traces")
    (folder / "charging.py").write_text(EXAMPLE)
    async with trace_collector() as collector:
        env = {
            "WORKER_JOBS": f"{JOBS},tests.integration.traced_jobs,charging",
            "PYTHONPATH": str(folder),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "LOG_FORMAT": "json",
            "LOG_TRACEBACKS": "false",
            "HEARTBEAT_S": "0.1",
        }
        async with running(folder / "state", **env) as stack:
            yield TracedSystem(stack, collector)
    assert {span.name for span in collector.spans} <= HEADWAY_SPANS | OWN_SPANS
    assert not [body for body in collector.bodies if SECRET.encode() in body]


async def test_a_trace_leads_from_the_caller_to_the_attempt(system: TracedSystem) -> None:
    """The request, the message and the attempt are one trace, whose id is in the details and in the log lines."""
    receipt, _ = await system.run("charge", 7, RECORDED)
    job_id = receipt["id"]
    attempt, send = await system.attempt(receipt), await system.collector.find("send jobs", id=job_id)
    (request,) = [span for span in system.collector.spans if span.span_id == send.parent]
    assert {span.trace_id for span in (request, send, attempt)} == {TRACE_ID}
    assert (request.service, request.name, request.kind, request.parent) == (
        "headway-submitter",
        "POST /jobs",
        "SERVER",
        SPAN_ID,
    )
    assert (send.service, send.kind) == ("headway-submitter", "PRODUCER")
    assert (attempt.service, attempt.kind, attempt.parent) == ("headway-worker", "CONSUMER", send.span_id)
    assert attempt.links == [(TRACE_ID, send.span_id)]
    (own,) = [span for span in system.collector.spans if span.parent == attempt.span_id and span.name != "started"]
    assert own.name == "charge the customer"
    assert not any(span.has_failed for span in (request, send, attempt, own))
    assert (await system.details(receipt))["trace_id"] == TRACE_ID
    events = {"job_submitted", "customer_charged", "job_handled"}

    def logged_events() -> set[str]:
        lines = [line for line in system.stack.output if job_id in line and f'"trace_id": "{TRACE_ID}"' in line]
        return {event for event in events for line in lines if event in line}

    await wait_until(lambda: logged_events() == events)


async def test_spans_follow_the_conventions_for_messages(system: TracedSystem) -> None:
    """They name the system, the queue and the operation; the attempt also names its job and its outcome."""
    receipt, _ = await system.run("echo", SECRET)
    attempt, send = await system.attempt(receipt), await system.collector.find("send jobs", id=receipt["id"])
    queue = {"messaging.system": "azure_storage_queue", "messaging.destination.name": "jobs"}
    job = {"headway.job.id": receipt["id"], "headway.job.kind": "echo"}
    operation = {"messaging.operation.name": "send", "messaging.operation.type": "send"}
    assert send.attributes == {**queue, **operation, **job}
    assert attempt.attributes.pop("messaging.message.id")
    assert attempt.attributes == {
        **queue,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        **job,
        "headway.job.attempt": 1,
        "headway.job.max_attempts": 5,
        "headway.job.generation": 0,
        "headway.job.outcome": "succeeded",
    }
    (request,) = [span for span in system.collector.spans if span.span_id == send.parent]
    assert (request.parent, request.trace_id == TRACE_ID) == ("", False)  # without a caller, a new trace
    assert request.attributes["http.response.status_code"] == 202


async def test_a_running_attempt_is_seen_before_it_ends(system: TracedSystem, tmp_path: Path) -> None:
    """A span without a length is sent when an attempt has started; the one of the attempt follows at its end."""
    receipt = await system.submit("wait-for-file", str(tmp_path / "end"))
    started = await system.collector.find("started", id=receipt["id"])
    assert started.started_ns == started.ended_ns
    assert started.attributes["headway.job.kind"] == "wait-for-file"
    assert not [span for span in system.collector.spans if span.span_id == started.parent]
    (tmp_path / "end").touch()
    attempt = await system.attempt(receipt)
    assert attempt.span_id == started.parent
    assert attempt.started_ns <= started.started_ns <= attempt.ended_ns


async def test_each_attempt_has_a_span_with_its_outcome(system: TracedSystem) -> None:
    """A failure has the type of its error, which users may not see, and no text; a redrive goes on in the trace."""
    receipt, end = await system.run("traced-failure", SECRET, RECORDED)
    assert end["status"] == "failed"
    attempts = await system.collector.find_all(2, "process jobs", id=receipt["id"])
    assert [
        (span.attributes["headway.job.attempt"], span.attributes["headway.job.outcome"], span.attributes["error.type"])
        for span in attempts
    ] == [(1, "retrying", "ValueError"), (2, "failed", "Fail")]
    assert all(span.has_failed for span in attempts)
    await system.operate(receipt, "redrive")
    attempts = await system.collector.find_all(4, "process jobs", id=receipt["id"])
    assert {(span.trace_id, span.parent) for span in attempts} == {(TRACE_ID, attempts[0].parent)}
    assert [span.attributes["headway.job.generation"] for span in attempts] == [0, 0, 1, 1]
    assert (await system.collector.find("POST /jobs/{id}/redrive")).attributes["http.response.status_code"] == 202


async def test_a_cancelled_attempt_has_not_failed(system: TracedSystem, tmp_path: Path) -> None:
    """Its outcome is `cancelled`, as that of its job."""
    receipt = await system.submit("wait-for-file", str(tmp_path / "never"))
    await system.collector.find("started", id=receipt["id"])
    await system.stack.cancel(receipt)
    attempt = await system.attempt(receipt)
    assert (attempt.attributes["headway.job.outcome"], attempt.has_failed) == ("cancelled", False)


async def test_a_handler_runs_in_its_span_wherever_it_runs(system: TracedSystem) -> None:
    """In a thread and in a process, too, the context names that span, and it is the parent of others."""
    for kind in ("traced-in-thread", "traced-in-process"):
        receipt, end = await system.run(kind)
        attempt = await system.attempt(receipt)
        assert end["result"] == [attempt.trace_id, attempt.span_id, attempt.span_id]
    own = await system.collector.find("resize the photo")
    assert own.parent in {
        span.span_id for span in await system.collector.find_all(1, "process jobs", kind="traced-in-thread")
    }


async def test_jobs_that_come_from_a_job_lead_to_it(system: TracedSystem) -> None:
    """A follow-up job belongs to the trace of the ended job; a rerun has its own, which is linked to that trace."""
    receipt, _ = await system.run("broken", traceparent=RECORDED, on_end="echo")
    follow_up_id = str(uuid5(NAMESPACE, f"{receipt['id']}/0"))
    follow_up = await system.collector.find("send jobs", id=follow_up_id)
    assert follow_up.trace_id == (await system.collector.find("process jobs", id=follow_up_id)).trace_id == TRACE_ID
    rerun = await system.operate(receipt, "rerun")
    send = await system.collector.find("send jobs", id=rerun["id"])
    original = await system.collector.find("send jobs", id=receipt["id"])
    assert send.links == [(TRACE_ID, original.span_id)]
    assert send.trace_id != TRACE_ID
    assert (await system.collector.find("POST /jobs/{id}/rerun")).span_id == send.parent


async def test_an_action_on_many_jobs_has_a_span(system: TracedSystem) -> None:
    """It is a job."""
    body = {"action": "redrive", "filter": {"kind": "missing"}}
    async with system.stack.session.post(f"{system.stack.url}/bulk", json=body) as response:
        receipt = await response.json()
    attempt = await system.attempt(receipt)
    assert attempt.attributes["headway.job.kind"] == "headway.bulk"
    assert (await system.collector.find("POST /bulk")).trace_id == attempt.trace_id


async def test_a_trace_that_its_caller_does_not_record_is_not_recorded(system: TracedSystem) -> None:
    """The job has its id nevertheless."""
    receipt, _ = await system.run("charge", 7, f"00-{'5' * 32}-{SPAN_ID}-00")
    later, _ = await system.run("charge", 8)
    await system.attempt(later)
    assert (await system.details(receipt))["trace_id"] == "5" * 32
    assert not [span for span in system.collector.spans if span.attributes.get("headway.job.id") == receipt["id"]]
