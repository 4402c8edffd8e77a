"""The tracer and a collector, or none."""

from __future__ import annotations

import asyncio
import threading

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from structlog.testing import capture_logs

from services.runtime import tracer
from services.runtime.tracer import LoggedExporter, open_tracer
from tests.trace_collector import trace_collector
from tests.waiting import wait_until

AN_HOUR_MS = "3600000"


@pytest.fixture
def _late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send spans only at the end, and never give up by itself."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", AN_HOUR_MS)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3600")


@pytest.mark.usefixtures("_late")
@pytest.mark.parametrize(
    ("env", "name", "expected"),
    [
        ({}, None, "headway-worker"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=resized,team=photos"}, None, "resized"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=resized"}, "shop", "shop"),
    ],
    ids=["default", "attributes", "setting"],
)
async def test_spans_are_sent_before_the_service_ends(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], name: str | None, expected: str
) -> None:
    """They have the name of the service: the default, or that of the user."""
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    async with trace_collector() as collector:
        async with open_tracer(f"{collector.url}/v1/traces", "worker", name) as open_one:
            with open_one.consumer_span("jobs", {}, None) as span:
                span.mark("started", {})
            assert collector.spans == []
        assert [(span.service, span.name) for span in collector.spans] == [
            (expected, "started"),
            (expected, "process jobs"),
        ]


@pytest.mark.usefixtures("_late")
async def test_a_collector_that_does_not_answer_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans end at once, more of them than the queue holds, and the service stops without having sent them."""
    monkeypatch.setattr(tracer, "FLUSH_TIMEOUT_S", 0.1)
    connected, closing, before = asyncio.Event(), asyncio.Event(), threading.enumerate()

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await closing.wait()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with asyncio.timeout(120):  # far less than the timeout of the exporter
            async with open_tracer(f"http://{host}:{port}/v1/traces", "worker") as open_one:
                for _ in range(3000):
                    with open_one.consumer_span("jobs", {}, None):
                        pass
                await connected.wait()
        threads = [thread for thread in threading.enumerate() if thread not in before]
        closing.set()
        await wait_until(lambda: not any(thread.is_alive() and thread.daemon for thread in threads))


async def test_an_outage_is_logged_once() -> None:
    """The first line has the reason; another one says that spans are sent again."""
    async with trace_collector() as collector:
        exporter = LoggedExporter(OTLPSpanExporter(f"{collector.url}/v1/traces"))
        with capture_logs() as lines:
            for status in (401, 401, 200, 200):
                collector.status = status
                await asyncio.to_thread(exporter.export, [])
        exporter.shutdown()
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("traces_unavailable", "warning"),
        ("traces_available", "info"),
    ]
    assert "401, reason: Unauthorized" in lines[0]["detail"]


async def test_the_key_of_the_collector_is_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK refuses a header with a line feed, and quotes it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=the%0Akey")
    exporter = LoggedExporter(OTLPSpanExporter("http://127.0.0.1:1/v1/traces"))
    with capture_logs() as lines:
        await asyncio.to_thread(exporter.export, [])
    exporter.shutdown()
    assert [line["event"] for line in lines] == ["traces_unavailable"]
    assert "key" not in caplog.text + str(lines)
