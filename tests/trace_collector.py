"""A collector of traces that decodes what the services send, as one of OpenTelemetry does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.waiting import free_ports, wait_until
from tests.web_server import serve


class ReceivedSpan(NamedTuple):
    """A span as it was received; ids are hexadecimal, `parent` is empty if it has none."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    links: list[tuple[str, str]]  # of trace and span
    attributes: dict[str, Any]
    has_failed: bool
    started_ns: int
    ended_ns: int


class TraceCollector:
    """Receives spans.

    Attributes:
        url: the address for `OTEL_EXPORTER_OTLP_ENDPOINT`.
        spans: what was received, in the order of arrival.
        bodies: the requests.
        status: what it answers.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[ReceivedSpan] = []
        self.bodies: list[bytes] = []
        self.status = 200

    async def receive(self, request: web.Request) -> web.Response:
        """Handle a request of an exporter."""
        assert request.content_type == "application/x-protobuf"
        self.bodies.append(await request.read())
        self.spans += _decode(self.bodies[-1])
        return web.Response(status=self.status, content_type="application/x-protobuf")

    async def find(self, name: str, **attributes: Any) -> ReceivedSpan:
        """Wait for a span with this name and these attributes of its job, and return the only one."""
        spans = await self.find_all(1, name, **attributes)
        return spans[0]

    async def find_all(self, count: int, name: str, **attributes: Any) -> list[ReceivedSpan]:
        """Wait for `count` spans with this name and these attributes of their jobs; return them by their starts."""

        def matching() -> list[ReceivedSpan]:
            return [
                span
                for span in self.spans
                if span.name == name
                and all(span.attributes.get(f"headway.job.{key}") == value for key, value in attributes.items())
            ]

        await wait_until(lambda: len(matching()) >= count)
        assert len(matching()) == count
        return sorted(matching(), key=lambda span: span.started_ns)


def _decode(body: bytes) -> Iterator[ReceivedSpan]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield ReceivedSpan(
                    service=service,
                    name=span.name,
                    kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    attributes=_attributes(span.attributes),
                    has_failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                    started_ns=span.start_time_unix_nano,
                    ended_ns=span.end_time_unix_nano,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@asynccontextmanager
async def trace_collector() -> AsyncIterator[TraceCollector]:
    """Run a collector until the block ends."""
    (port,) = free_ports(1)
    collector = TraceCollector(f"http://127.0.0.1:{port}")
    app = web.Application(client_max_size=1 << 24)
    app.add_routes([web.post("/v1/traces", collector.receive)])
    async with serve(web.AppRunner(app), port):
        yield collector
