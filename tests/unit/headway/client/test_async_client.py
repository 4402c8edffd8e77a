"""The async client against fake services that fail in the ways that real ones do."""

from __future__ import annotations

import asyncio
import pickle
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from aiohttp import WSCloseCode, web

from headway.client import (
    Client,
    InvalidToken,
    JobCancelled,
    JobFailed,
    Receipt,
    RequestFailed,
    TypedReceipt,
    Unreachable,
    notifier_connection,
)
from headway.client.links import Link
from headway.contracts import JobSnapshot, Timestamp
from tests.unit.headway.client.fake_services import (
    Services,
    SocketHandler,
    drop_response,
    end_jobs,
    hello,
    respond_with,
    send_messages,
    snapshot_json,
    token_for,
)
from tests.waiting import PATIENCE_S, free_ports, wait_until


async def watch_versions(client: Client, job: Any, token: str | None = None) -> list[int]:
    """Return the versions that a watch yields."""
    return [snapshot.version async for snapshot in client.watch(job, token=token)]


async def test_clock_is_that_of_the_notifier(services: Services, client: Client) -> None:
    """The time that the notifier sends is the client's, whatever the clock of this machine shows."""
    receipt = services.receipt(uuid4())
    assert abs(client.clock.now() - Timestamp.now()) < 60_000
    services.socket_handlers = [end_jobs(receipt)]
    assert await watch_versions(client, receipt)
    assert 0 <= client.clock.now() - Timestamp.parse("2026-01-01T00:00:00.000Z") < 600_000


async def test_a_submission_is_retried_with_the_same_key(services: Services, client: Client) -> None:
    """A lost response, a 503 and a 429 are retried with the same idempotency key, body and API key."""
    job_id = uuid4()
    receipt = {"id": str(job_id), "status": "queued", "token": "t", "links": {"page": "p"}}
    services.responses = [
        drop_response,
        respond_with(503, Retry_After="0"),
        respond_with(429),
        respond_with(202, receipt),
    ]
    assert (await client.submit("k", [1.0, None], delay_s=2, timeout_s=3)).id == job_id
    assert len({request.headers["Idempotency-Key"] for request in services.requests}) == 1
    assert {request.headers["Authorization"] for request in services.requests} == {"Bearer the key"}
    assert services.bodies == [b'{"kind":"k","payload":[1.0,null],"delay_s":2,"timeout_s":3}'] * 4


async def test_each_submission_has_its_own_key(services: Services, client: Client) -> None:
    """Each submission has a new idempotency key, unless the caller passes one."""
    services.responses = [respond_with(202, {"id": str(uuid4()), "token": "t", "links": {"page": "p"}})]
    for key in (None, None, "mine"):
        await client.submit("k", idempotency_key=key)
    keys = [request.headers["Idempotency-Key"] for request in services.requests]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


async def test_a_rejected_submission_is_not_retried(services: Services, client: Client) -> None:
    """An invalid submission raises an exception with status, code, detail and field."""
    problem = {"status": 422, "code": "invalid", "detail": "Expected a kind", "field": "kind"}
    services.responses = [respond_with(422, problem)]
    with pytest.raises(RequestFailed, match="Expected a kind") as raised:
        await client.submit("")
    error = raised.value
    assert (error.status, error.code, error.detail, error.field) == (422, "invalid", "Expected a kind", "kind")
    assert len(services.requests) == 1


@pytest.mark.parametrize(("status", "body"), [(500, "oops"), (301, None), (404, {"no": "problem"})])
async def test_an_unexpected_response_raises_its_status(
    services: Services, client: Client, status: int, body: Any
) -> None:
    """A response that does not come from Headway raises RequestFailed with the status."""
    services.responses = [respond_with(status, body)]
    with pytest.raises(RequestFailed, match=str(status)):
        await client.submit("k")


async def test_retries_end_after_a_time() -> None:
    """A client that cannot reach the server gives up after `retry_for_s`."""
    async with Client(f"http://127.0.0.1:{free_ports(1)[0]}", retry_for_s=0.1) as client:
        with pytest.raises(Unreachable, match="does not answer"):
            await asyncio.wait_for(client.submit("k"), PATIENCE_S)


async def test_a_long_retry_after_ends_the_retries(services: Services) -> None:
    """A Retry-After beyond `retry_for_s` raises the server's error at once."""
    services.responses = [
        respond_with(503, {"code": "unavailable", "detail": "The queue is unavailable."}, Retry_After="36000")
    ]
    async with Client(services.url, retry_for_s=10 * PATIENCE_S) as client:
        with pytest.raises(RequestFailed, match="The queue is unavailable") as raised:
            await asyncio.wait_for(client.submit("k"), PATIENCE_S)
    assert raised.value.status == 503


async def test_a_watch_survives_lost_sockets(services: Services, client: Client) -> None:
    """A client that reconnects names its last version; the versions only rise until the job has ended."""
    receipt = services.receipt(uuid4())
    services.socket_handlers = [
        send_messages({"job": snapshot_json(receipt.id, 0, "queued")}, close=WSCloseCode.SERVICE_RESTART),
        send_messages(
            {"job": snapshot_json(receipt.id, 5)}, {"job": snapshot_json(receipt.id, 4)}, close=WSCloseCode.GOING_AWAY
        ),
        send_messages({"job": snapshot_json(receipt.id, 5)}, {"job": snapshot_json(receipt.id, 9, "succeeded")}),
    ]
    assert await watch_versions(client, receipt) == [0, 5, 9]
    assert services.received[:3] == [
        {"watch": receipt.token},
        {"watch": receipt.token},
        {"watch": receipt.token, "version": 5},
    ]


async def test_watches_share_one_socket(services: Services, client: Client) -> None:
    """All watches of a client share one connection, and a job without watches is unsubscribed."""
    receipts = [services.receipt(uuid4()) for _ in range(3)]
    services.socket_handlers = [end_jobs(*receipts)]
    watched = [*receipts, *receipts]
    assert await asyncio.gather(*(watch_versions(client, receipt) for receipt in watched)) == [[1]] * 6
    assert await watch_versions(client, receipts[0]) == [1]
    assert services.socket_count == 1
    await wait_until(lambda: sum("unwatch" in message for message in services.received) == 4)


async def test_a_lost_record_and_invalid_messages_do_not_end_a_watch(services: Services, client: Client) -> None:
    """The client ignores the error `unknown` and messages that it does not understand."""
    receipt = services.receipt(uuid4())
    unknown = {"error": {"code": "unknown", "message": "lost", "job_id": str(receipt.id)}}
    last = {"job": snapshot_json(receipt.id, 3, "succeeded")}
    services.socket_handlers = [
        send_messages({"job": snapshot_json(receipt.id, 2)}, unknown, {"job": "invalid"}, {"new": 1}, last)
    ]
    assert (await watch_versions(client, receipt))[-1] == 3


@pytest.mark.parametrize("code", ["invalid_token", "token_expired"])
async def test_a_rejected_token_ends_only_its_watch(services: Services, client: Client, code: str) -> None:
    """A rejected token raises InvalidToken in the watch of its job, and the other watch continues."""
    bad, good = services.receipt(uuid4()), services.receipt(uuid4())

    async def serve(socket: web.WebSocketResponse, received: list[dict[str, Any]]) -> None:
        await socket.send_json(hello())
        received += [await socket.receive_json() for _ in range(2)]
        await socket.send_json({"error": {"code": code, "message": "No.", "job_id": str(bad.id)}})
        await socket.send_json({"job": snapshot_json(good.id, 1, "succeeded")})
        await socket.receive()

    services.socket_handlers = [serve]
    results = await asyncio.gather(watch_versions(client, bad), watch_versions(client, good), return_exceptions=True)
    assert isinstance(results[0], InvalidToken)
    assert (results[0].code, results[1]) == (code, [1])


async def test_a_policy_violation_ends_all_watches(services: Services, client: Client) -> None:
    """After a close with 1008 the client does not reconnect, because it would be rejected again."""
    receipt = services.receipt(uuid4())
    services.socket_handlers = [send_messages(close=WSCloseCode.POLICY_VIOLATION)]
    with pytest.raises(RequestFailed) as raised:
        await watch_versions(client, receipt)
    assert (raised.value.code, services.socket_count) == ("refused", 1)


@pytest.mark.parametrize("without_hello", [False, True])
async def test_a_client_without_websockets_polls(
    services: Services, client: Client, monkeypatch: pytest.MonkeyPatch, without_hello: bool
) -> None:
    """A rejected upgrade, or a socket without hello, leads to long polls that name the version."""
    monkeypatch.setattr(notifier_connection, "HELLO_TIMEOUT_S", 0.1)
    receipt = services.receipt(uuid4())
    services.upgrade_status = 101 if without_hello else 403
    services.socket_handlers = [send_messages(hello=None)]
    lost = {"code": "unknown", "detail": "lost"}
    services.responses = [
        respond_with(200, snapshot_json(receipt.id, 0, "queued")),
        respond_with(503),
        respond_with(304),
        respond_with(404, lost),
        respond_with(200, snapshot_json(receipt.id, 7, "succeeded")),
    ]
    assert await watch_versions(client, receipt) == [0, 7]
    first, second = services.requests[:2]
    assert (first.path, first.headers["Prefer"]) == (f"/live/jobs/{receipt.id}", "wait=25")
    assert first.headers["Authorization"] == f"Bearer {receipt.token}"
    assert ("If-None-Match" in first.headers, second.headers["If-None-Match"]) == (False, '"0"')


@pytest.mark.parametrize("date", ["", "yesterday"])
async def test_a_poll_without_a_date_is_accepted(services: Services, client: Client, date: str) -> None:
    """A proxy may change the header from which a polling client takes the server's time."""
    receipt = services.receipt(uuid4())
    services.upgrade_status = 403
    services.responses = [respond_with(200, snapshot_json(receipt.id, 1, "succeeded"), Date=date)]
    assert await watch_versions(client, receipt) == [1]
    assert abs(client.clock.now() - Timestamp.now()) < 60_000


async def test_a_polling_client_returns_to_websockets(
    services: Services, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a WebSocket can be opened again, the watch continues over it."""
    monkeypatch.setattr(notifier_connection, "WEBSOCKET_RETRY_INTERVAL_S", 0.05)
    receipt = services.receipt(uuid4())
    services.upgrade_status = 403
    services.responses = [respond_with(200, snapshot_json(receipt.id, 1)), respond_with(304)]
    services.socket_handlers = [send_messages({"job": snapshot_json(receipt.id, 2, "succeeded")})]
    versions = []
    async for snapshot in client.watch(receipt):
        versions.append(snapshot.version)
        services.upgrade_status = 101
    assert versions == [1, 2]
    assert services.received[0] == {"watch": receipt.token, "version": 1}


async def test_a_poll_with_an_expired_token_raises(services: Services, client: Client) -> None:
    """An expired token raises InvalidToken in a long poll, too."""
    receipt = services.receipt(uuid4())
    services.upgrade_status = 403
    services.responses = [respond_with(401, {"code": "token_expired", "detail": "The token has expired."})]
    with pytest.raises(InvalidToken) as raised:
        await watch_versions(client, receipt)
    assert raised.value.code == "token_expired"


async def test_a_client_reconnects_when_pings_fail(
    services: Services, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose pings are not answered opens a new connection."""
    monkeypatch.setattr(notifier_connection, "PING_INTERVAL_S", 0.1)
    receipt = services.receipt(uuid4())

    async def unresponsive(socket: web.WebSocketResponse, received: list[dict[str, Any]]) -> None:
        await send_messages({"job": snapshot_json(receipt.id, 1)})(UnresponsiveSocket(socket), received)  # type: ignore[arg-type]
        await asyncio.get_running_loop().create_future()

    services.socket_handlers = [unresponsive, send_messages({"job": snapshot_json(receipt.id, 2, "succeeded")})]
    assert await watch_versions(client, receipt) == [1, 2]


class UnresponsiveSocket:
    """A socket that stops receiving after its first message."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.send_json, self.receive_json = socket.send_json, socket.receive_json

    def __aiter__(self) -> UnresponsiveSocket:
        return self

    async def __anext__(self) -> None:
        raise StopAsyncIteration


async def test_a_page_link_leads_to_the_notifier(services: Services, client: Client) -> None:
    """The client resolves a page's link without token or API key; only the notifier receives the token."""
    receipt = services.receipt(uuid4())
    services.responses = [respond_with(200, {"id": str(receipt.id), "links": {"live": receipt.links["live"]}})]
    services.socket_handlers = [end_jobs(receipt)]
    assert await watch_versions(client, receipt.link) == [1]
    assert await watch_versions(client, receipt.links["live"], receipt.token) == [1]
    (request,) = services.requests
    assert (request.path_qs, request.headers["Accept"]) == (f"/jobs/{receipt.id}", "application/json")
    assert "Authorization" not in request.headers


async def test_get_returns_the_current_snapshot(services: Services, client: Client) -> None:
    """`get` reads the snapshot once, without a version; a request that failed is repeated."""
    receipt = services.receipt(uuid4())
    services.responses = [respond_with(503), respond_with(200, snapshot_json(receipt.id, 0, "queued"))]
    snapshot = await client.get(receipt)
    assert (snapshot.id, snapshot.status, snapshot.version) == (receipt.id, "queued", 0)
    request = services.requests[-1]
    assert (request.method, request.path) == ("GET", f"/live/jobs/{receipt.id}")
    assert request.headers["Authorization"] == f"Bearer {receipt.token}"
    assert request.headers.keys().isdisjoint({"If-None-Match", "Prefer"})


async def test_get_raises_the_errors_of_the_notifier(services: Services, client: Client) -> None:
    """An expired token is an InvalidToken, and a rejected request a RequestFailed."""
    receipt = services.receipt(uuid4())
    services.responses = [
        respond_with(401, {"code": "token_expired", "detail": "The token has expired."}),
        respond_with(403, {"code": "forbidden", "detail": "No."}),
    ]
    with pytest.raises(InvalidToken):
        await client.get(receipt)
    with pytest.raises(RequestFailed):
        await client.get(receipt)


@pytest.mark.parametrize("job", [uuid4(), str(uuid4())], ids=["uuid", "text"])
async def test_an_unknown_id_needs_a_link(client: Client, job: Any) -> None:
    """An id is enough only for jobs that this client has submitted."""
    with pytest.raises(ValueError, match="pass its link"):
        await client.result(job)


async def test_a_token_for_another_job_is_not_sent(services: Services, client: Client) -> None:
    """A link with the token of another job raises an error before any request is sent."""
    receipt = services.receipt(uuid4())
    with pytest.raises(InvalidToken, match="for another job"):
        await watch_versions(client, receipt.links["live"], token_for(uuid4()))
    assert services.socket_count == 0


async def test_results_are_decoded_and_failures_raised(services: Services, client: Client) -> None:
    """A result is decoded to the given type; a failure, a cancellation and a timeout are exceptions."""
    receipt = services.receipt(uuid4())
    error = {"type": "ValueError", "message": "no"}

    def end_with(status: str, **fields: Any) -> SocketHandler:
        return send_messages({"job": snapshot_json(receipt.id, 1, status, **fields)}, close=WSCloseCode.SERVICE_RESTART)

    services.socket_handlers = [
        end_with("succeeded", result={"a": [1]}),
        end_with("succeeded", result=[str(receipt.id)]),
        end_with("failed", error=error),
        end_with("cancelled"),
        send_messages(),
    ]
    assert await client.result(receipt) == {"a": [1]}
    assert await client.result(receipt, type=list[UUID]) == [receipt.id]
    with pytest.raises(JobFailed, match="ValueError: no") as failed:
        await client.result(receipt)
    assert failed.value.error.message == "no"
    with pytest.raises(JobCancelled):
        await client.result(receipt)
    with pytest.raises(TimeoutError):
        await client.result(receipt, timeout_s=0.1)


async def test_a_typed_receipt_decodes_the_result(services: Services, client: Client) -> None:
    """With `result_type`, the receipt has the type to which `result` decodes; the argument `type` has precedence."""
    receipt = services.receipt(uuid4())
    services.responses = [respond_with(202, {"id": receipt.id.hex, "token": receipt.token, "links": receipt.links})]
    services.socket_handlers = [
        send_messages(
            {"job": snapshot_json(receipt.id, 1, "succeeded", result=["2026-01-01"])},
            close=WSCloseCode.SERVICE_RESTART,
        )
    ]
    typed = await client.submit("k", result_type=list[date])
    assert isinstance(typed, TypedReceipt)
    assert typed.token not in repr(typed)
    assert pickle.loads(pickle.dumps(typed)) == typed
    assert await client.result(typed) == [date(2026, 1, 1)]
    assert await client.result(typed, type=list[str]) == await client.result(typed.id) == ["2026-01-01"]


async def test_a_watch_ends_after_its_timeout(services: Services, client: Client) -> None:
    """A watch of a job that does not end within `timeout_s` raises a TimeoutError and unsubscribes."""
    receipt = services.receipt(uuid4())
    services.socket_handlers = [send_messages({"job": snapshot_json(receipt.id, 1)})]
    watch = client.watch(receipt, timeout_s=1)
    assert (await anext(watch)).version == 1
    with pytest.raises(TimeoutError):
        await anext(watch)
    await wait_until(lambda: {"unwatch": str(receipt.id)} in services.received)


async def test_a_cancellation_is_retried(services: Services, client: Client) -> None:
    """A lost cancellation is sent again and returns the snapshot; a rejected one raises RequestFailed."""
    receipt = services.receipt(uuid4())
    services.responses = [
        drop_response,
        respond_with(202, snapshot_json(receipt.id, 3, "cancelled")),
        respond_with(403, {"code": "forbidden", "detail": "No."}),
    ]
    snapshot = await client.cancel(receipt)
    assert isinstance(snapshot, JobSnapshot)
    assert (snapshot.status, services.requests[-1].path) == ("cancelled", f"/live/jobs/{receipt.id}/cancel")
    with pytest.raises(RequestFailed) as raised:
        await client.cancel(receipt)
    assert raised.value.code == "forbidden"


async def test_a_closed_client_ends_its_watches(services: Services) -> None:
    """A watch that is open when its client closes raises a RuntimeError."""
    receipt = services.receipt(uuid4())
    services.socket_handlers = [send_messages({"job": snapshot_json(receipt.id, 1)})]
    async with Client(services.url) as client:
        watch = aiter(client.watch(receipt))
        assert (await anext(watch)).version == 1
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)  # lets the task start to wait
    with pytest.raises(RuntimeError, match="closed"):
        await waiting


def test_a_client_may_be_created_without_a_loop() -> None:
    """A client belongs to the loop in which it is opened, and may be opened again in another one."""
    client = Client(f"http://127.0.0.1:{free_ports(1)[0]}", retry_for_s=0)

    async def use() -> None:
        async with client:
            with pytest.raises(Unreachable):
                await client.submit("k")

    for _ in range(2):
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(use())


async def test_a_client_is_used_inside_its_block(services: Services) -> None:
    """Before and after its `async with` block a client raises an error that says so, and so does a second block."""
    client = Client(services.url)
    with pytest.raises(RuntimeError, match="not open"):
        await client.submit("k")
    async with client:
        with pytest.raises(RuntimeError, match="already open"):
            await client.__aenter__()
    with pytest.raises(RuntimeError, match="not open"):
        await client.get(services.receipt(uuid4()))


async def test_a_client_belongs_to_the_loop_of_its_block(services: Services, client: Client) -> None:
    """In another event loop every method raises an error that says what to do, also a watch that is open."""
    receipt = services.receipt(uuid4())
    services.socket_handlers = [send_messages({"job": snapshot_json(receipt.id, 1)})]
    services.responses = [respond_with(200, snapshot_json(receipt.id, 1))]
    watch = client.watch(receipt)
    assert (await anext(watch)).version == 1
    uses = (
        lambda: client.submit("k"),
        lambda: client.get(receipt),
        lambda: client.result(receipt),
        lambda: client.cancel(receipt),
        lambda: client.share(receipt),
        lambda: anext(client.watch(receipt)),
        lambda: anext(watch),
        lambda: client.__aexit__(),
    )

    async def use_all() -> None:
        for use in uses:
            with pytest.raises(RuntimeError, match=r"another event loop.*SyncClient"):
                await use()

    await asyncio.to_thread(asyncio.run, use_all())
    assert (await client.get(receipt)).version == 1


def test_a_client_that_is_open_in_an_idle_loop_says_so() -> None:
    """`asyncio.run` for each call does not work: the client stays open in the first of these loops."""
    client = Client("http://127.0.0.1:1")

    async def use() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await client.submit("k")
        with pytest.raises(RuntimeError, match="already open"):
            await client.__aenter__()

    with asyncio.Runner() as runner:
        runner.run(client.__aenter__())
        with asyncio.Runner() as other:
            other.run(use())
        runner.run(client.__aexit__())


async def test_a_request_in_progress_ends_with_its_client(services: Services) -> None:
    """A request that is still retried when the client is closed raises a RuntimeError in words."""
    services.responses = [respond_with(503)]
    async with Client(services.url) as client:
        submission = asyncio.ensure_future(client.submit("k"))
        await wait_until(lambda: services.requests)
    with pytest.raises(RuntimeError, match="closed; open it again with `async with"):
        await submission


async def test_an_open_watch_does_not_disturb_the_end_of_the_loop(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """A watch that is still open when its loop ends is closed without an error."""
    receipt = services.receipt(uuid4())
    services.socket_handlers = [send_messages({"job": snapshot_json(receipt.id, 1)})]
    open_watches = []

    async def leave_open() -> None:
        async with Client(services.url) as client:
            open_watches.append(client.watch(receipt))
            await anext(open_watches[0])

    await asyncio.to_thread(asyncio.run, leave_open())
    assert "asynchronous generator" not in caplog.text


@pytest.mark.parametrize("reference", ["receipt", "page", "live"])
async def test_share_returns_a_receipt_for_watching(services: Services, client: Client, reference: str) -> None:
    """The client asks the submitter for a watch-only token with the job's own token, and needs no API key."""
    receipt, shared = services.receipt(uuid4()), "the watch-only token"
    body = {"id": str(receipt.id), "token": shared, "scope": "watch", "links": {"page": "p"}}
    services.responses = [drop_response, respond_with(200, body)]
    job = receipt if reference == "receipt" else receipt.links[reference]
    assert await client.share(job, token=receipt.token) == Receipt(receipt.id, shared, {"page": "p"})
    request = services.requests[-1]
    assert request.path == f"/jobs/{receipt.id}/token"
    assert request.headers["Authorization"] == f"Bearer {receipt.token}"
    assert services.bodies == [b'{"scope":"watch"}'] * 2


def test_a_receipt_has_the_expiry_of_its_token() -> None:
    """`expires_at` is the time in the token, in UTC; a token that is not a JWT has none."""
    expiry = datetime(2026, 1, 8, 0, 0, 0, 500_000, tzinfo=UTC)
    key = "a key that the client does not know"
    assert Receipt(uuid4(), jwt.encode({"exp": expiry.timestamp()}, key), {}).expires_at == expiry
    for token in ("secret", jwt.encode({}, key), jwt.encode({"exp": 1e300}, key)):
        receipt = Receipt(uuid4(), token, {})
        with pytest.raises(ValueError, match="cannot be decoded"):
            assert receipt.expires_at


def test_a_receipt_hides_its_token() -> None:
    """Neither a receipt nor a link contains its token when it is printed or logged."""
    job_id = uuid4()
    receipt = Receipt(job_id, "secret", {"page": f"http://h/jobs/{job_id}#secret"})
    for printed in (repr(receipt), str(receipt), repr(Link.parse(receipt.link)), str(Link.parse(receipt.link))):
        assert "secret" not in printed
        assert str(job_id) in printed
