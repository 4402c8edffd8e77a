"""The trace of a program that submits a job."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from headway.client import Client, SyncClient
from tests.unit.headway.client.fake_services import Services, respond_with

TRACEPARENT = f"00-{'1' * 32}-{'2' * 16}-01"
SPAN = NonRecordingSpan(SpanContext(int("1" * 32, 16), int("2" * 16, 16), is_remote=False, trace_flags=TraceFlags(1)))


async def test_a_job_belongs_to_the_trace_of_its_caller(services: Services, client: Client) -> None:
    """Both clients name the current span, if there is one, also when they run a job again."""
    receipt = {"id": str(uuid4()), "token": "t", "links": {"page": "p"}}
    services.responses = [respond_with(202, receipt)]
    with use_span(SPAN):
        submitted = await client.submit("k")
        await client.rerun(submitted)
        with SyncClient(services.url) as sync_client:
            await asyncio.to_thread(sync_client.submit, "k")
    await client.submit("k")
    assert [request.headers.get("traceparent") for request in services.requests] == [*[TRACEPARENT] * 3, None]
