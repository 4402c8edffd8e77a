"""The client against servers that behave in every way that servers do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
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
    Unreachable,
    notifier_connection,
    retries,
)
from headway.client.links import Link
from headway.contracts import JobSnapshot
from tests.waiting import free_ports, wait_until

Serve = Callable[[web.WebSocketResponse, list[dict[str, Any]]], Awaitable[None]]


def token_for(job_id: UUID) -> str:
    """Make a token that names a job; nobody verifies it here."""
    return jwt.encode({"sub": str(job_id)}, "a key that nobody has to know here")


def state(job_id: UUID, version: int, status: str = "running", **more: Any) -> dict[str, Any]:
    """Make a snapshot as the notifier sends it."""
    moment = "2026-01-01T00:00:00.000Z"
    return {
        "id": str(job_id),
        "kind": "k",
        "status": status,
        "version": version,
        "submitted_at": moment,
        "expires_at": moment,
        **more,
    }


class Services:
    """A submitter and a notifier in one, that do what a test tells them and remember what they were asked."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[web.BaseRequest] = []
        self.bodies: list[bytes] = []
        self.said: list[dict[str, Any]] = []
        self.sockets = 0
        self.answers: list[Callable[[web.Request], Awaitable[web.StreamResponse]]] = []
        self.upgrade_status = 101
        self.behaviour: list[Serve] = []

    def receipt(self, job_id: UUID) -> Receipt:
        """Make the receipt of a job."""
        live = f"{self.url}/live/jobs/{job_id}"
        links = {"page": f"{self.url}/jobs/{job_id}#{token_for(job_id)}", "live": live}
        return Receipt(job_id, token_for(job_id), links)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer plain requests with what is next, the last one for ever."""
        self.requests.append(request)
        self.bodies.append(await request.read())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """Serve a socket as the next behaviour has it, the last one for ever."""
        self.sockets += 1
        if self.upgrade_status != 101:
            return web.Response(status=self.upgrade_status)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        serve = self.behaviour.pop(0) if len(self.behaviour) > 1 else self.behaviour[0]
        await serve(socket, self.said)
        return socket


def answering(status: int, body: Any = None, **headers: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Make an answer of JSON."""

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return answer


async def losing(request: web.Request) -> web.Response:
    """Take the request and lose the answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def telling(*messages: dict[str, Any], close: int | None = None, hello: bool = True) -> Serve:
    """Say hello, hear one request, say these messages, and close or hear on."""

    async def serve(socket: web.WebSocketResponse, said: list[dict[str, Any]]) -> None:
        if hello:
            await socket.send_json({"hello": {"now": "2026-01-01T00:00:00.000Z"}})
        said.append(await socket.receive_json())
        for message in messages:
            await socket.send_json(message)
        if close is not None:
            await socket.close(code=close)
        said.extend([message.json() async for message in socket])

    return serve


def ending_all(*receipts: Receipt) -> Serve:
    """Say hello, and of every job that is asked for that it has succeeded."""

    async def serve(socket: web.WebSocketResponse, said: list[dict[str, Any]]) -> None:
        await socket.send_json({"hello": {"now": "2026-01-01T00:00:00.000Z"}})
        jobs = {receipt.token: receipt.id for receipt in receipts}
        async for message in socket:
            asked = message.json()
            said.append(asked)
            if "watch" in asked:
                await socket.send_json({"job": state(jobs[asked["watch"]], 1, "succeeded")})

    return serve


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    """Run the services for one test."""
    services = Services()
    app = web.Application()
    app.router.add_get("/live", services.socket)
    app.router.add_route("*", "/{path:.*}", services.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    services.url = f"http://127.0.0.1:{port}"
    yield services
    await runner.cleanup()


@pytest.fixture
async def client(services: Services) -> AsyncIterator[Client]:
    """Open a client of the services."""
    async with Client(services.url, api_key="the key") as client:
        yield client


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait little between two tries."""
    monkeypatch.setattr(retries, "BACKOFF_BASE_S", 0.001)
    monkeypatch.setattr(notifier_connection, "BACKOFF_BASE_S", 0.001)
    monkeypatch.setattr(notifier_connection, "BACKOFF_CAP_S", 0.01)
    monkeypatch.setattr(notifier_connection, "EMPTY_POLL_DELAY_S", 0.01)


async def history(client: Client, job: Any, token: str | None = None) -> list[int]:
    """Return the versions that a watch yields."""
    return [snapshot.version async for snapshot in client.watch(job, token=token)]


async def test_a_submission_is_sent_again_with_its_key_until_it_is_answered(services: Services, client: Client) -> None:
    """A lost answer, a 503 and a 429 are tried again with the same key and body, and the API key each time."""
    job_id = uuid4()
    receipt = {"id": str(job_id), "status": "queued", "token": "t", "links": {"page": "p"}}
    services.answers = [losing, answering(503, Retry_After="0"), answering(429), answering(202, receipt)]
    assert (await client.submit("k", [1.0, None], delay_s=2, timeout_s=3)).id == job_id
    assert len({request.headers["Idempotency-Key"] for request in services.requests}) == 1
    assert {request.headers["Authorization"] for request in services.requests} == {"Bearer the key"}
    assert services.bodies == [b'{"kind":"k","payload":[1.0,null],"delay_s":2,"timeout_s":3}'] * 4


async def test_two_submissions_have_two_keys(services: Services, client: Client) -> None:
    """Each submission is a job of its own, unless the caller gives the key."""
    services.answers = [answering(202, {"id": str(uuid4()), "token": "t", "links": {"page": "p"}})]
    for key in (None, None, "mine"):
        await client.submit("k", idempotency_key=key)
    keys = [request.headers["Idempotency-Key"] for request in services.requests]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


async def test_a_refused_submission_is_told_at_once(services: Services, client: Client) -> None:
    """What does not fit is not sent again; the exception has status, code, detail and field."""
    problem = {"status": 422, "code": "invalid", "detail": "Expected a kind", "field": "kind"}
    services.answers = [answering(422, problem)]
    with pytest.raises(RequestFailed, match="Expected a kind") as refused:
        await client.submit("")
    error = refused.value
    assert (error.status, error.code, error.detail, error.field) == (422, "invalid", "Expected a kind", "kind")
    assert len(services.requests) == 1


@pytest.mark.parametrize(("status", "body"), [(500, "oops"), (301, None), (404, {"no": "problem"})])
async def test_an_answer_of_somebody_else_is_a_problem(
    services: Services, client: Client, status: int, body: Any
) -> None:
    """What is no answer of Headway is told by its status."""
    services.answers = [answering(status, body)]
    with pytest.raises(RequestFailed, match=str(status)):
        await client.submit("k")


async def test_patience_ends() -> None:
    """When nobody answers, or everybody is busy, the client gives up in its time."""
    async with Client(f"http://127.0.0.1:{free_ports(1)[0]}", retry_for_s=0.1) as client:
        with pytest.raises(Unreachable, match="does not answer"):
            await asyncio.wait_for(client.submit("k"), 10)


async def test_a_longer_wait_than_patience_is_not_begun(services: Services) -> None:
    """A Retry-After beyond the client's patience ends the call with what the server said."""
    services.answers = [
        answering(503, {"code": "unavailable", "detail": "The queue is unavailable."}, Retry_After="3600")
    ]
    async with Client(services.url, retry_for_s=5) as client:
        with pytest.raises(RequestFailed, match="The queue is unavailable") as refused:
            await asyncio.wait_for(client.submit("k"), 4)
    assert refused.value.status == 503


async def test_a_watch_goes_to_the_end_through_lost_sockets(services: Services, client: Client) -> None:
    """After a restart and a cut the version is named; versions only rise, the ending is last."""
    receipt = services.receipt(uuid4())
    services.behaviour = [
        telling({"job": state(receipt.id, 0, "queued")}, close=WSCloseCode.SERVICE_RESTART),
        telling({"job": state(receipt.id, 5)}, {"job": state(receipt.id, 4)}, close=WSCloseCode.GOING_AWAY),
        telling({"job": state(receipt.id, 5)}, {"job": state(receipt.id, 9, "succeeded")}),
    ]
    assert await history(client, receipt) == [0, 5, 9]
    assert services.said[:3] == [
        {"watch": receipt.token},
        {"watch": receipt.token},
        {"watch": receipt.token, "version": 5},
    ]


async def test_watches_share_one_socket(services: Services, client: Client) -> None:
    """Many watches of many jobs are one connection, and a job that nobody watches any more is unwatched."""
    receipts = [services.receipt(uuid4()) for _ in range(3)]
    services.behaviour = [ending_all(*receipts)]
    both = [*receipts, *receipts]
    assert await asyncio.gather(*(history(client, receipt) for receipt in both)) == [[1]] * 6
    assert await history(client, receipts[0]) == [1]
    assert services.sockets == 1
    await wait_until(lambda: sum("unwatch" in message for message in services.said) == 4)


async def test_a_lost_record_and_nonsense_do_not_end_a_watch(services: Services, client: Client) -> None:
    """Error `unknown` and what is not understood are passed over: the job goes on."""
    receipt = services.receipt(uuid4())
    unknown = {"error": {"code": "unknown", "message": "lost", "job_id": str(receipt.id)}}
    ending = {"job": state(receipt.id, 3, "succeeded")}
    services.behaviour = [telling({"job": state(receipt.id, 2)}, unknown, {"job": "what?"}, {"new": 1}, ending)]
    assert (await history(client, receipt))[-1] == 3


@pytest.mark.parametrize("code", ["invalid_token", "token_expired"])
async def test_a_token_that_opens_nothing_ends_its_watch_alone(services: Services, client: Client, code: str) -> None:
    """A wrong token raises in the watch of its job, and no other watch notices."""
    bad, good = services.receipt(uuid4()), services.receipt(uuid4())

    async def serve(socket: web.WebSocketResponse, said: list[dict[str, Any]]) -> None:
        await socket.send_json({"hello": {"now": "2026-01-01T00:00:00.000Z"}})
        said += [await socket.receive_json() for _ in range(2)]
        await socket.send_json({"error": {"code": code, "message": "No.", "job_id": str(bad.id)}})
        await socket.send_json({"job": state(good.id, 1, "succeeded")})
        await socket.receive()

    services.behaviour = [serve]
    results = await asyncio.gather(history(client, bad), history(client, good), return_exceptions=True)
    assert isinstance(results[0], InvalidToken)
    assert (results[0].code, results[1]) == (code, [1])


async def test_a_refusing_server_is_not_asked_again(services: Services, client: Client) -> None:
    """A close for policy ends all watches: what is sent again would be refused again."""
    receipt = services.receipt(uuid4())
    services.behaviour = [telling(close=WSCloseCode.POLICY_VIOLATION)]
    with pytest.raises(RequestFailed) as refused:
        await history(client, receipt)
    assert (refused.value.code, services.sockets) == ("refused", 1)


@pytest.mark.parametrize("swallowed", [False, True])
async def test_where_no_socket_comes_through_it_polls(
    services: Services, client: Client, monkeypatch: pytest.MonkeyPatch, swallowed: bool
) -> None:
    """A refused or swallowed upgrade leads to held requests that name the version."""
    monkeypatch.setattr(notifier_connection, "HELLO_TIMEOUT_S", 0.1)
    receipt = services.receipt(uuid4())
    services.upgrade_status = 101 if swallowed else 403
    services.behaviour = [telling(hello=False)]
    lost = {"code": "unknown", "detail": "lost"}
    services.answers = [
        answering(200, state(receipt.id, 0, "queued")),
        answering(503),
        answering(304),
        answering(404, lost),
        answering(200, state(receipt.id, 7, "succeeded")),
    ]
    assert await history(client, receipt) == [0, 7]
    first, second = services.requests[:2]
    assert (first.path, first.headers["Prefer"]) == (f"/live/jobs/{receipt.id}", "wait=25")
    assert first.headers["Authorization"] == f"Bearer {receipt.token}"
    assert ("If-None-Match" in first.headers, second.headers["If-None-Match"]) == (False, '"0"')


async def test_it_comes_back_to_sockets(services: Services, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """When sockets come through again, the watch goes on over one."""
    monkeypatch.setattr(notifier_connection, "WEBSOCKET_RETRY_INTERVAL_S", 0.05)
    receipt = services.receipt(uuid4())
    services.upgrade_status = 403
    services.answers = [answering(200, state(receipt.id, 1)), answering(304)]
    services.behaviour = [telling({"job": state(receipt.id, 2, "succeeded")})]
    seen = []
    async for snapshot in client.watch(receipt):
        seen.append(snapshot.version)
        services.upgrade_status = 101
    assert seen == [1, 2]
    assert services.said[0] == {"watch": receipt.token, "version": 1}


async def test_a_poll_with_a_wrong_token_raises(services: Services, client: Client) -> None:
    """The token's problem is told in the fallback, too."""
    receipt = services.receipt(uuid4())
    services.upgrade_status = 403
    services.answers = [answering(401, {"code": "token_expired", "detail": "The token has expired."})]
    with pytest.raises(InvalidToken) as refused:
        await history(client, receipt)
    assert refused.value.code == "token_expired"


async def test_a_dead_network_is_noticed(services: Services, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers no ping any more is left for a new connection."""
    monkeypatch.setattr(notifier_connection, "PING_INTERVAL_S", 0.1)
    receipt = services.receipt(uuid4())

    async def dead(socket: web.WebSocketResponse, said: list[dict[str, Any]]) -> None:
        await telling({"job": state(receipt.id, 1)}, hello=True)(Deaf(socket), said)  # type: ignore[arg-type]
        await asyncio.get_running_loop().create_future()

    services.behaviour = [dead, telling({"job": state(receipt.id, 2, "succeeded")})]
    assert await history(client, receipt) == [1, 2]


class Deaf:
    """A socket that stops to hear after its first message."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.send_json, self.receive_json = socket.send_json, socket.receive_json

    def __aiter__(self) -> Deaf:
        return self

    async def __anext__(self) -> None:
        raise StopAsyncIteration


async def test_a_page_link_leads_to_the_notifier(services: Services, client: Client) -> None:
    """A page's link is asked for JSON without token or key, and its token is shown to the notifier alone."""
    receipt = services.receipt(uuid4())
    services.answers = [answering(200, {"id": str(receipt.id), "links": {"live": receipt.links["live"]}})]
    services.behaviour = [ending_all(receipt)]
    assert await history(client, receipt.link) == [1]
    assert await history(client, receipt.links["live"], receipt.token) == [1]
    (asked,) = services.requests
    assert (asked.path_qs, asked.headers["Accept"]) == (f"/jobs/{receipt.id}", "application/json")
    assert "Authorization" not in asked.headers


@pytest.mark.parametrize("job", [uuid4(), str(uuid4())], ids=["uuid", "text"])
async def test_an_unknown_id_needs_a_link(client: Client, job: Any) -> None:
    """An id is enough only for jobs that this client has submitted."""
    with pytest.raises(ValueError, match="pass its link"):
        await client.result(job)


async def test_a_token_for_another_job_is_not_sent(services: Services, client: Client) -> None:
    """A link with the token of another job is told before anybody is asked."""
    receipt = services.receipt(uuid4())
    with pytest.raises(InvalidToken, match="for another job"):
        await history(client, receipt.links["live"], token_for(uuid4()))
    assert services.sockets == 0


async def test_results_are_decoded_and_endings_raised(services: Services, client: Client) -> None:
    """A result comes as the type that is asked for; a failure and a cancellation are exceptions, and so is time."""
    receipt = services.receipt(uuid4())
    error = {"type": "ValueError", "message": "no"}

    def ending(status: str, **more: Any) -> Serve:
        return telling({"job": state(receipt.id, 1, status, **more)}, close=WSCloseCode.SERVICE_RESTART)

    services.behaviour = [
        ending("succeeded", result={"a": [1]}),
        ending("succeeded", result=[str(receipt.id)]),
        ending("failed", error=error),
        ending("cancelled"),
        telling(),
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


async def test_cancelling_is_tried_again(services: Services, client: Client) -> None:
    """A cancel that is lost is sent again, and its answer is the snapshot; a refusal is a Problem."""
    receipt = services.receipt(uuid4())
    services.answers = [
        losing,
        answering(202, state(receipt.id, 3, "cancelled")),
        answering(403, {"code": "forbidden", "detail": "No."}),
    ]
    snapshot = await client.cancel(receipt)
    assert isinstance(snapshot, JobSnapshot)
    assert (snapshot.status, services.requests[-1].path) == ("cancelled", f"/live/jobs/{receipt.id}/cancel")
    with pytest.raises(RequestFailed) as refused:
        await client.cancel(receipt)
    assert refused.value.code == "forbidden"


async def test_a_closed_client_ends_its_watches(services: Services) -> None:
    """Whoever still watches when the client closes is told."""
    receipt = services.receipt(uuid4())
    services.behaviour = [telling({"job": state(receipt.id, 1)})]
    async with Client(services.url) as client:
        watch = aiter(client.watch(receipt))
        assert (await anext(watch)).version == 1
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)  # so that it waits
    with pytest.raises(RuntimeError, match="closed"):
        await waiting


def test_a_receipt_does_not_show_its_token() -> None:
    """Neither a receipt nor a link can be logged with its token by accident."""
    job_id = uuid4()
    receipt = Receipt(job_id, "secret", {"page": f"http://h/jobs/{job_id}#secret"})
    for shown in (repr(receipt), str(receipt), repr(Link.parse(receipt.link)), str(Link.parse(receipt.link))):
        assert "secret" not in shown
        assert str(job_id) in shown
