"""Creates spans and sends them to an OpenTelemetry collector. Import this only where traces are on.

A span is put into a bounded queue when it ends, and a thread sends it: an unreachable collector delays no job. The
attributes follow https://opentelemetry.io/docs/specs/semconv/messaging/; none of them is a payload or an error's text.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager

import structlog
from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.util.re import parse_env_headers

from headway import __version__
from headway.trace_context import TraceContext

from .current_trace import context_of, span_context, trace_of_span
from .settings import SettingsError

log: structlog.stdlib.BoundLogger = structlog.get_logger()

FLUSH_TIMEOUT_S = 2.0  # for the spans that are left when the service stops
MESSAGING_SYSTEM = "azure_storage_queue"
ERROR_TYPE = "error.type"

Attributes = Mapping[str, str | int]


class Span:
    """A span that has not ended."""

    def __init__(self, tracer: api.Tracer, span: api.Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def trace(self) -> TraceContext:
        """What other processes need to continue the trace here."""
        return trace_of_span(self._span)

    def set(self, attributes: Attributes) -> None:
        """Set attributes."""
        self._span.set_attributes(attributes)

    def fail(self, error_type: str) -> None:
        """Mark the span as failed."""
        self._span.set_status(api.StatusCode.ERROR)
        self._span.set_attribute(ERROR_TYPE, error_type)

    def mark(self, name: str, attributes: Attributes) -> None:
        """Add a child without a length, which is sent before this span has ended."""
        now = time.time_ns()
        context = api.set_span_in_context(self._span)
        self._tracer.start_span(name, context, attributes=attributes, start_time=now).end(now)


class Tracer:
    """Creates spans, each of which is the current one within its block."""

    def __init__(self, provider: api.TracerProvider) -> None:
        self._tracer = provider.get_tracer("headway", __version__)

    def server_span(
        self, method: str, route: str, path: str, caller: TraceContext | None
    ) -> AbstractContextManager[Span]:
        """Handle a request within a span.

        Args:
            method: the HTTP method.
            route: the template of the route.
            path: the path, without the query.
            caller: the span of the caller; without one, a trace starts.
        """
        attributes = {"http.request.method": method, "http.route": route, "url.path": path}
        return self._start(f"{method} {route}", api.SpanKind.SERVER, attributes, context_of(caller))

    def producer_span(
        self, queue: str, attributes: Attributes, link: TraceContext | None
    ) -> AbstractContextManager[Span]:
        """Send a message within a span, a child of the current one.

        Args:
            queue: the name of the queue.
            attributes: further attributes.
            link: a span of another trace that has led to it, if there is one.
        """
        attributes = _messaging("send", queue, attributes)
        return self._start(f"send {queue}", api.SpanKind.PRODUCER, attributes, link=link)

    def consumer_span(
        self, queue: str, attributes: Attributes, producer: TraceContext | None
    ) -> AbstractContextManager[Span]:
        """Process a message within a span.

        Args:
            queue: the name of the queue.
            attributes: further attributes.
            producer: the span that has sent the message, which becomes the parent and a link; without one, a trace
                starts.
        """
        attributes = _messaging("process", queue, attributes)
        return self._start(f"process {queue}", api.SpanKind.CONSUMER, attributes, context_of(producer), producer)

    @contextmanager
    def _start(
        self,
        name: str,
        kind: api.SpanKind,
        attributes: Attributes,
        context: Context | None = None,
        link: TraceContext | None = None,
    ) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name,
            context,
            kind,
            attributes,
            () if link is None else (api.Link(span_context(link)),),
            record_exception=False,  # its text may contain a payload
            set_status_on_exception=False,
        ) as span:
            yield Span(self._tracer, span)


def _messaging(operation: str, queue: str, attributes: Attributes) -> Attributes:
    return {
        "messaging.system": MESSAGING_SYSTEM,
        "messaging.destination.name": queue,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        **attributes,
    }


class LoggedExporter(SpanExporter):
    """An exporter that logs when spans can no longer be sent, and when they can again.

    The exporter of the SDK would log each try; of its lines, the first one has the reason.
    """

    def __init__(self, exporter: OTLPSpanExporter) -> None:
        self._exporter = exporter
        self._has_failed = False
        self._lines = _Lines.of(OTLPSpanExporter.__module__)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans. Called in the thread of the SDK."""
        self._lines.texts.clear()
        result = self._exporter.export(spans)
        has_failed = result is not SpanExportResult.SUCCESS
        if has_failed and not self._has_failed:
            reason = next(iter(self._lines.texts), "")
            # What follows may be the value of a header, which is the key of the collector.
            log.warning("traces_unavailable", detail=re.split("header", reason, flags=re.IGNORECASE)[0])
        elif self._has_failed and not has_failed:
            log.info("traces_available")
        self._has_failed = has_failed
        return result

    def shutdown(self) -> None:
        """Stop trying again."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class _Lines(logging.Handler):
    """Keeps the lines of a logger, which are logged nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    @classmethod
    def of(cls, name: str) -> _Lines:
        """Return the lines that the logger with this name writes from now on."""
        logger, lines = logging.getLogger(name), cls()
        logger.handlers, logger.propagate = [lines], False
        return lines

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@asynccontextmanager
async def open_tracer(url: str, service: str, name: str | None = None) -> AsyncIterator[Tracer]:
    """Yield a tracer, whose provider is that of all code in this process; then send the spans that are left.

    Args:
        url: where the spans are sent.
        service: the service, `submitter` or `worker`.
        name: its name in traces, by default with `headway-` in front.

    Raises:
        SettingsError: OTEL_EXPORTER_OTLP_HEADERS is invalid.
        ValueError: the SDK does not accept another one of its variables.
    """
    exporter = _create_exporter(url)
    provider = TracerProvider(resource=_resource(service, name), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    api.set_tracer_provider(provider)  # spans of jobs and of their libraries are children of those of Headway
    try:
        yield Tracer(provider)
    finally:
        flush = threading.Thread(target=provider.shutdown, name="flush-traces", daemon=True)
        flush.start()
        await asyncio.to_thread(flush.join, FLUSH_TIMEOUT_S)
        if flush.is_alive():
            exporter.shutdown()


def _create_exporter(url: str) -> LoggedExporter:
    lines = _Lines.of(parse_env_headers.__module__)  # they quote an invalid header, which may be a key
    exporter = LoggedExporter(OTLPSpanExporter(url))
    if lines.texts:
        raise SettingsError(["OTEL_EXPORTER_OTLP_HEADERS: expected name=value pairs, separated by commas"])
    return exporter


def _resource(service: str, name: str | None) -> Resource:
    """Return the attributes of all spans: the defaults, which those of the user replace."""
    defaults = Resource.create({SERVICE_NAME: f"headway-{service}", SERVICE_VERSION: __version__})
    resource = defaults.merge(OTELResourceDetector().detect())
    return resource if name is None else resource.merge(Resource({SERVICE_NAME: name}))
