"""The settings of traces. Without them, nothing of OpenTelemetry is imported."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Literal

from .settings import Settings, SettingsError, Url

if TYPE_CHECKING:
    from .tracer import Tracer


class TracingSettings(Settings, frozen=True, kw_only=True):
    """Settings of a service that sends spans. The SDK of OpenTelemetry reads its other variables by itself."""

    otel_exporter_otlp_endpoint: Url | None = None
    """The OpenTelemetry collector to which spans are sent, such as `http://collector:4318`. Traces are off unless this
    or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set, and need the extra `headway[otel]`: see docs/traces.md."""
    otel_exporter_otlp_traces_endpoint: Url | None = None
    """The address for spans, if it is not `OTEL_EXPORTER_OTLP_ENDPOINT` and `/v1/traces`."""
    otel_exporter_otlp_protocol: Literal["http/protobuf"] = "http/protobuf"
    """The protocol of the collector; gRPC is not supported."""
    otel_exporter_otlp_traces_protocol: Literal["http/protobuf"] = "http/protobuf"
    """The same, for spans only."""
    otel_sdk_disabled: bool = False
    """Whether traces are off although an address is set."""
    otel_service_name: str | None = None
    """The name of the service in traces, by default `headway-submitter` or `headway-worker`."""

    @property
    def traces_url(self) -> str | None:
        """The URL to which spans are sent, None if traces are off."""
        if self.otel_sdk_disabled:
            return None
        if self.otel_exporter_otlp_traces_endpoint is not None:
            return self.otel_exporter_otlp_traces_endpoint
        base = self.otel_exporter_otlp_endpoint
        return None if base is None else f"{base.rstrip('/')}/v1/traces"


@asynccontextmanager
async def open_tracing(settings: TracingSettings) -> AsyncIterator[Tracer | None]:
    """Yield the tracer, None if traces are off; then send the spans that are left, as far as that is soon done.

    Raises:
        SettingsError: the extra is not installed, or the SDK does not accept one of its variables.
    """
    url = settings.traces_url
    if url is None:
        yield None
        return
    async with AsyncExitStack() as stack:
        try:
            from .tracer import open_tracer

            opening = open_tracer(url, settings.service, settings.otel_service_name)
            tracer = await stack.enter_async_context(opening)
        except ImportError as error:
            raise SettingsError(
                [f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but {error.name} is missing: install headway[otel]"]
            ) from error
        except ValueError as error:  # also of the import
            raise SettingsError([f"a variable of OpenTelemetry is not accepted: {error}"]) from error
        yield tracer
