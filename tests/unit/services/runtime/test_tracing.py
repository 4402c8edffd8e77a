"""When traces are on, and what is wrong with their settings."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dev.environment import ROOT
from services.runtime.settings import SettingsError, load
from services.runtime.tracing import open_tracing
from services.submitter.settings import SubmitterSettings
from services.worker.settings import WorkerSettings
from tests.unit.services.runtime.test_settings import SUBMITTER, WORKER

COLLECTOR = "http://127.0.0.1:4318"
WITHOUT_TRACES = """
import asyncio, sys

import services.submitter.app, services.worker.app
import services.worker.execution.handler_process
from headway.client.submission import submission_request
from services.runtime.settings import load
from services.runtime.tracing import open_tracing
from services.worker.settings import WorkerSettings

async def main():
    async with open_tracing(load(WorkerSettings, %r)) as tracer:
        assert tracer is None

asyncio.run(main())
assert "traceparent" not in submission_request("kind")[0]
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "shop"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, f"{COLLECTOR}/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": f"{COLLECTOR}/otlp/"}, f"{COLLECTOR}/otlp/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{COLLECTOR}/in"}, f"{COLLECTOR}/in"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://traces"},
            "https://traces",
        ),
        ({"WORKER_OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, f"{COLLECTOR}/v1/traces"),
    ],
)
def test_an_endpoint_turns_traces_on(env: dict[str, str], url: str | None) -> None:
    """Spans are sent to the address for all signals and `/v1/traces`, or to that for traces, as it is."""
    assert load(WorkerSettings, {**WORKER, **env}).traces_url == url


def test_another_protocol_is_refused() -> None:
    """GRPC has another port and is not supported, so that nothing would arrive; an address must be one of HTTP."""
    protocols = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}
    env = {**protocols, "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}
    with pytest.raises(SettingsError) as raised:
        load(SubmitterSettings, {**SUBMITTER, **env})
    problems = str(raised.value).splitlines()
    assert [problem.partition(":")[0] for problem in problems] == [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    ]


async def test_a_missing_package_is_a_settings_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the extra to install."""
    monkeypatch.delitem(sys.modules, "services.runtime.tracer", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    settings = load(WorkerSettings, {**WORKER, "OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR})
    with pytest.raises(SettingsError, match=r"opentelemetry\.sdk\.trace is missing: install headway\[otel\]$"):
        async with open_tracing(settings):
            pass


async def test_an_invalid_variable_of_the_sdk_is_a_settings_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service does not start, rather than lose its spans."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    settings = load(WorkerSettings, {**WORKER, "OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR})
    with pytest.raises(SettingsError, match=r"^a variable of OpenTelemetry is not accepted: max_queue_size"):
        async with open_tracing(settings):
            pass


async def test_a_variable_that_the_sdk_refuses_when_it_is_imported_is_a_settings_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the variable, instead of a traceback."""
    for module in ("services.runtime.tracer", "opentelemetry.sdk.trace"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many")
    settings = load(WorkerSettings, {**WORKER, "OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR})
    with pytest.raises(SettingsError, match=r"is not accepted: OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be"):
        async with open_tracing(settings):
            pass


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"])
async def test_invalid_headers_are_a_settings_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str
) -> None:
    """They may be keys, so they are not shown, neither in the error nor in a log line of the SDK."""
    monkeypatch.setenv(variable, "a=b,the-key-of-the-collector")
    settings = load(WorkerSettings, {**WORKER, "OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR})
    with pytest.raises(SettingsError, match=r"^OTEL_EXPORTER_OTLP_HEADERS: expected name=value pairs"):
        async with open_tracing(settings):
            pass
    assert "the-key" not in caplog.text


def test_nothing_of_opentelemetry_is_imported_without_an_endpoint() -> None:
    """Neither submitter and worker, nor the processes of handlers, nor a client that submits a job import it."""
    command = [sys.executable, "-c", WITHOUT_TRACES % WORKER]
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout == "[]\n"
