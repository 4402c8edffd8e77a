"""Submissions with a job's own types. mypy checks the `assert_type`s."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any, assert_type
from uuid import UUID, uuid4

import msgspec
import pytest
from msgspec import Struct

from dev.environment import ROOT
from headway import Job, JobContext, job
from headway.client import Client, SyncClient, TypedReceipt
from headway.contracts import Json, decode
from tests.unit.headway.client.fake_services import Services, respond_with, send_messages, snapshot_json


class Letters(Struct):
    """A payload."""

    to: list[str]
    copies: int = 1


class Report(Struct):
    """A result."""

    sent: int


@job("letters", max_attempts=3, timeout_s=60)
async def letters(_ctx: JobContext, payload: Letters) -> Report:
    """Send letters."""
    return Report(len(payload.to))


@job("count")
def count(_ctx: JobContext, payload: str | None) -> dict[str, int]:
    """Count the characters, in a thread."""
    return {"characters": len(payload or "")}


@job("untyped")
async def untyped(_ctx, payload):  # type: ignore[no-untyped-def]
    """Return the payload."""
    return payload


@pytest.fixture
def accepted_id(services: Services) -> UUID:
    """Prepare the services to accept a job, whose result is a report; return its id."""
    receipt = services.receipt(uuid4())
    body = {"id": str(receipt.id), "token": receipt.token, "links": receipt.links}
    services.responses = [respond_with(202, body)]
    services.socket_handlers = [
        send_messages({"job": snapshot_json(receipt.id, 1, "succeeded", result={"sent": 2})}, close=1012)
    ]
    return receipt.id


async def test_a_job_is_submitted_with_its_types(services: Services, client: Client, accepted_id: UUID) -> None:
    """The receipt has the type of the handler's result; only the given options are sent."""
    receipt = await letters.submit(client, Letters(["a", "b"]), delay_s=1, idempotency_key="mine")
    assert_type(receipt, TypedReceipt[Report])
    assert receipt.id == accepted_id
    result = await client.result(receipt)
    assert_type(result, Report)
    assert result == Report(2)
    assert services.bodies == [b'{"kind":"letters","payload":{"to":["a","b"],"copies":1},"delay_s":1}']
    assert services.requests[0].headers["Idempotency-Key"] == "mine"


async def test_a_sync_client_submits_a_job_with_its_types(services: Services, accepted_id: UUID) -> None:
    """With a sync client `submit` returns the receipt and `result` the result, without `await`."""

    def use() -> Report:
        with SyncClient(services.url) as client:
            receipt = letters.submit(client, Letters(["a", "b"]), max_attempts=2, timeout_s=3)
            assert_type(receipt, TypedReceipt[Report])
            assert receipt.id == accepted_id
            result = client.result(receipt)
            assert_type(result, Report)
            return result

    assert await asyncio.to_thread(use) == Report(2)
    body = b'{"kind":"letters","payload":{"to":["a","b"],"copies":1},"max_attempts":2,"timeout_s":3}'
    assert services.bodies == [body]


async def test_an_invalid_payload_is_not_sent(services: Services, client: Client) -> None:
    """A payload that does not match the handler's type raises an error that names the field, before any request."""
    with pytest.raises(msgspec.ValidationError, match=r"`\$\.copies`"):
        await letters.submit(client, Letters(["a"], copies="many"))  # type: ignore[arg-type]
    with pytest.raises(msgspec.ValidationError, match="`to`"):
        await letters.submit(client, {"copies": 3})  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="object"):
        await untyped.submit(client, object())
    assert services.requests == []


class Losses(Struct):
    """A payload with numbers."""

    losses: list[float | None]


@pytest.mark.parametrize("payload", [Losses([None, float("nan")]), {"losses": [None, float("nan")]}], ids=repr)
async def test_a_payload_with_nan_is_not_sent(services: Services, client: Client, payload: Any) -> None:
    """Each way to submit refuses it with the path, instead of sending null."""

    def use() -> None:
        with SyncClient(services.url) as sync_client:
            sync_client.submit("letters", payload)

    problem = r"^payload\.losses\[1\] is nan, which JSON cannot represent$"
    with pytest.raises(ValueError, match=problem):
        await client.submit("letters", payload)
    with pytest.raises(ValueError, match=problem):
        await untyped.submit(client, payload)
    with pytest.raises(ValueError, match=problem):
        await asyncio.to_thread(use)
    assert services.requests == []


async def test_a_payload_with_none_is_sent(services: Services, client: Client, accepted_id: UUID) -> None:
    """None is null, in a value and in JSON that is sent as it is."""
    assert (await client.submit("k", Losses([None, 0.5]))).id == accepted_id
    await client.submit("k", Json(b'{"a": null}'))
    assert [decode(body, dict[str, Any])["payload"] for body in services.bodies] == [
        {"losses": [None, 0.5]},
        {"a": None},
    ]


async def test_any_payload_of_the_type_is_sent(services: Services, client: Client, accepted_id: UUID) -> None:
    """The payload None is sent as null, and a handler without annotations takes any payload."""
    assert_type(await count.submit(client, None), TypedReceipt[dict[str, int]])
    receipt = await untyped.submit(client, {"sent": 2})
    assert_type(receipt, TypedReceipt[Any])
    assert await client.result(receipt) == {"sent": 2}
    assert services.bodies == [b'{"kind":"count","payload":null}', b'{"kind":"untyped","payload":{"sent":2}}']
    assert accepted_id == receipt.id


def test_the_types_of_a_job() -> None:
    """A job has the types of its handler's payload and result, whether it is async or plain."""
    assert_type(letters, Job[Letters, Report])
    assert_type(count, Job[str | None, dict[str, int]])
    assert (letters.result_type(), count.result_type(), untyped.result_type()) == (Report, dict[str, int], Any)


def test_jobs_can_be_imported_without_the_client() -> None:
    """A module with jobs does not import aiohttp: a worker may run without the client's dependencies."""
    program = "import sys, headway.client.links; print('headway.jobs' in sys.modules, 'aiohttp' in sys.modules)"
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "True False\n"
