"""The connection to a notifier that falls silent, restarts, refuses sockets, or rejects one of several tokens."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import WSCloseCode, web

from headway.client import Client, InvalidToken, Receipt, notifier_connection, reconnects
from tests.unit.headway.client.fake_services import (
    Services,
    SocketHandler,
    hello,
    respond_with,
    send_messages,
    snapshot_json,
    token_for,
)
from tests.waiting import PATIENCE_S, wait_until


@pytest.fixture(autouse=True)
def _patient_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a hello as long as a busy machine needs."""
    monkeypatch.setattr(notifier_connection, "HELLO_TIMEOUT_S", PATIENCE_S)


@pytest.fixture
def timeouts(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Timeout]:
    """Return the timeouts of the connections that the client opens."""
    opened: list[asyncio.Timeout] = []

    def timeout(delay_s: float | None) -> asyncio.Timeout:
        opened.append(asyncio.timeout(delay_s))
        return opened[-1]

    recorded = SimpleNamespace(**{**vars(asyncio), "timeout": timeout})
    monkeypatch.setattr(notifier_connection, "asyncio", recorded)
    return opened


async def watch_versions(client: Client, job: Any, token: str | None = None) -> list[int]:
    """Return the versions that a watch yields."""
    return [snapshot.version async for snapshot in client.watch(job, token=token)]


def fall_silent(*messages: dict[str, Any]) -> SocketHandler:
    """Return a handler that sends messages and then nothing more, not even pongs, and never closes."""

    async def serve(socket: web.WebSocketResponse, _received: list[dict[str, Any]]) -> None:
        for message in messages:
            await socket.send_json(message)
        await asyncio.get_running_loop().create_future()

    return serve


async def test_a_silent_connection_is_lost(services: Services, client: Client) -> None:
    """After `silence_s` without a message the client opens another WebSocket, and does not poll."""
    receipt = services.receipt(uuid4())
    running = {"job": snapshot_json(receipt.id, 1)}
    services.socket_handlers = [
        fall_silent(hello(silence_s=0.2)),
        fall_silent(hello(silence_s=0.2), running),
        fall_silent(hello(silence_s=60), running, hello(silence_s=0.2)),
        send_messages({"job": snapshot_json(receipt.id, 2, "succeeded")}),
    ]
    assert await watch_versions(client, receipt) == [1, 2]
    assert services.socket_count == 4
    assert services.requests == []


async def test_any_message_shows_that_the_connection_works(
    services: Services, client: Client, timeouts: list[asyncio.Timeout]
) -> None:
    """Each message, a repeated hello or a snapshot, postpones the end of the connection to `silence_s` later."""
    receipt, outbox = services.receipt(uuid4()), asyncio.Queue[dict[str, Any]]()

    async def serve(socket: web.WebSocketResponse, _received: list[dict[str, Any]]) -> None:
        await socket.send_json(hello(silence_s=60))
        while True:
            await socket.send_json(await outbox.get())

    def deadline() -> float:
        return timeouts[-1].when() or 0.0

    services.socket_handlers = [serve]
    watch, deadlines = client.watch(receipt), []
    for version in (1, 2):
        outbox.put_nowait({"job": snapshot_json(receipt.id, version)})
        assert (await anext(watch)).version == version
        deadlines.append(deadline())
    assert deadlines[0] < deadlines[1]
    outbox.put_nowait(hello(silence_s=60))
    await wait_until(lambda: deadline() > deadlines[1])
    assert len(timeouts) == 1


@pytest.mark.parametrize("fields", [{}, {"silence_s": 0}, {"silence_s": None}])
async def test_an_older_notifier_may_be_silent(
    services: Services, client: Client, timeouts: list[asyncio.Timeout], fields: dict[str, Any]
) -> None:
    """Without `silence_s` a connection that has received its hello has no deadline; pings test it."""
    receipt = services.receipt(uuid4())
    services.socket_handlers = [send_messages({"job": snapshot_json(receipt.id, 1)}, hello=hello(**fields))]
    async for _ in client.watch(receipt):
        assert [timeout.when() for timeout in timeouts] == [None]
        break


async def test_after_a_loss_a_working_client_opens_only_websockets(
    services: Services, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart is more likely than a new proxy: neither a missing hello nor a refused upgrade leads to polls."""

    def before_next(hello_timeout_s: float, serve: SocketHandler) -> SocketHandler:
        async def serve_after(socket: web.WebSocketResponse, received: list[dict[str, Any]]) -> None:
            monkeypatch.setattr(notifier_connection, "HELLO_TIMEOUT_S", hello_timeout_s)  # of the next connection
            await serve(socket, received)

        return serve_after

    receipt = services.receipt(uuid4())
    services.socket_handlers = [
        before_next(0.1, send_messages({"job": snapshot_json(receipt.id, 1)}, close=WSCloseCode.SERVICE_RESTART)),
        before_next(PATIENCE_S, send_messages(hello=None)),
        send_messages({"job": snapshot_json(receipt.id, 2)}, close=WSCloseCode.SERVICE_RESTART),
        send_messages({"job": snapshot_json(receipt.id, 3, "succeeded")}),
    ]
    versions = []
    async for snapshot in client.watch(receipt):
        versions.append(snapshot.version)
        if snapshot.version == 2:
            services.upgrade_status, before = 403, services.socket_count
            await wait_until(lambda: services.socket_count > before + 2)  # noqa: B023
            services.upgrade_status = 101
    assert versions == [1, 2, 3]
    assert services.requests == []


async def test_silence_alone_does_not_lead_to_polls(
    services: Services, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notifier may allow more silence than the time after which a client without WebSockets polls."""
    monkeypatch.setattr(notifier_connection, "FALLBACK_AFTER_S", 1)
    receipt = services.receipt(uuid4())
    services.socket_handlers = [
        fall_silent(hello(silence_s=1.5), {"job": snapshot_json(receipt.id, 1)}),
        send_messages({"job": snapshot_json(receipt.id, 2, "succeeded")}),
    ]
    assert await watch_versions(client, receipt) == [1, 2]
    assert services.requests == []


async def test_after_an_attempt_without_answer_the_next_one_follows_at_once(
    services: Services, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that was frozen may be free again: the time without a hello is the only delay."""

    async def be_patient(socket: web.WebSocketResponse, received: list[dict[str, Any]]) -> None:
        monkeypatch.setattr(notifier_connection, "HELLO_TIMEOUT_S", PATIENCE_S)  # with the next connection
        await fall_silent()(socket, received)

    receipt = services.receipt(uuid4())
    services.socket_handlers = [
        fall_silent(hello(silence_s=0.2), {"job": snapshot_json(receipt.id, 1)}),
        fall_silent(),
        be_patient,
        send_messages({"job": snapshot_json(receipt.id, 2, "succeeded")}),
    ]
    watch = client.watch(receipt, timeout_s=PATIENCE_S)
    assert (await anext(watch)).version == 1
    monkeypatch.setattr(notifier_connection, "HELLO_TIMEOUT_S", 0.1)
    await wait_until(lambda: services.socket_count == 2)
    monkeypatch.setattr(reconnects, "RECONNECT_SPREAD_S", 1e6 * PATIENCE_S)
    monkeypatch.setattr(reconnects, "RECONNECT_CAP_S", 1e6 * PATIENCE_S)
    assert (await anext(watch)).version == 2


async def test_a_client_polls_when_websockets_stay_blocked(
    services: Services, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop moves to a network whose proxy blocks WebSockets, although they have worked before."""
    monkeypatch.setattr(notifier_connection, "FALLBACK_AFTER_S", 0.1)
    receipt = services.receipt(uuid4())
    services.socket_handlers = [
        send_messages({"job": snapshot_json(receipt.id, 1)}, close=WSCloseCode.ABNORMAL_CLOSURE)
    ]
    services.responses = [respond_with(200, snapshot_json(receipt.id, 2, "succeeded"))]
    versions = []
    async for snapshot in client.watch(receipt):
        versions.append(snapshot.version)
        services.upgrade_status = 403
    assert versions == [1, 2]


async def test_a_refused_upgrade_waits_as_long_as_the_server_asks(
    services: Services, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopping replica answers 503 with `Retry-After`."""
    asked: list[tuple[int | None, float]] = []

    class Recorded(reconnects.ReconnectDelays):
        def next_s(self, code: int | None = None, retry_after_s: float = 0.0) -> float:
            asked.append((code, retry_after_s))
            services.upgrade_status = 101
            return 0.0

    monkeypatch.setattr(notifier_connection, "ReconnectDelays", Recorded)
    receipt = services.receipt(uuid4())
    services.upgrade_status, services.upgrade_headers = 503, {"Retry-After": "7"}
    services.socket_handlers = [
        send_messages({"job": snapshot_json(receipt.id, 1)}, close=WSCloseCode.TRY_AGAIN_LATER),
        send_messages({"job": snapshot_json(receipt.id, 2, "succeeded")}),
    ]
    assert await watch_versions(client, receipt) == [1, 2]
    assert asked == [(503, 7.0), (WSCloseCode.TRY_AGAIN_LATER, 0.0)]


class TwoTokens:
    """Two watches of one job, each with a token of its own, and a notifier that accepts or rejects these."""

    def __init__(self, services: Services, exp: tuple[int, int], scope: tuple[str, str]) -> None:
        job_id = uuid4()
        self.services = services
        self.first, self.second = (
            Receipt(job_id, token_for(job_id, exp=exp[i], scope=scope[i]), services.receipt(job_id).links)
            for i in (0, 1)
        )
        self.rejected: set[str] = set()
        services.socket_handlers = [self.serve]

    async def serve(self, socket: web.WebSocketResponse, received: list[dict[str, Any]]) -> None:
        """Answer each watch; `reject` and `finish` send more."""
        self.socket = socket
        await socket.send_json(hello())
        async for message in socket:
            request = message.json()
            received.append(request)
            if request.get("watch") in self.rejected:
                await self.reject("invalid_token")
            elif "watch" in request:
                await socket.send_json({"job": snapshot_json(self.first.id, 1)})

    async def reject(self, code: str) -> None:
        """Send the error of a rejected or expired token."""
        error = {"code": code, "message": "No.", "job_id": str(self.first.id)}
        await self.socket.send_json({"error": error})

    async def finish(self) -> None:
        """Send the end of the job."""
        await self.socket.send_json({"job": snapshot_json(self.first.id, 9, "succeeded")})

    @property
    def sent(self) -> list[str]:
        """The tokens that the client has sent, in order."""
        return [message["watch"] for message in self.services.received if "watch" in message]

    def watch_both(self, client: Client) -> asyncio.Future[Any]:
        """Start the second watch when the first one has its snapshot."""
        first, started = client.watch(self.first), asyncio.Event()

        async def rest() -> list[int]:
            versions = [(await anext(first)).version]
            started.set()
            return versions + [snapshot.version async for snapshot in first]

        async def second() -> list[int]:
            await started.wait()
            return await watch_versions(client, self.second)

        return asyncio.gather(rest(), second(), return_exceptions=True)


async def test_the_better_token_of_two_watches_is_used(services: Services, client: Client) -> None:
    """The job of the first watch does not die with its token, and the version is known already."""
    job = TwoTokens(services, exp=(100, 200), scope=("watch", "watch"))
    both = job.watch_both(client)
    await wait_until(lambda: job.sent == [job.first.token, job.second.token])
    await job.finish()
    assert await both == [[1, 9], [1, 9]]
    assert services.received[1] == {"watch": job.second.token, "version": 1}


async def test_after_an_expired_token_the_other_one_takes_over(services: Services, client: Client) -> None:
    """The better token permits more, and expires earlier."""
    job = TwoTokens(services, exp=(100, 200), scope=("watch cancel", "watch"))
    both = job.watch_both(client)
    await wait_until(lambda: job.sent == [job.first.token])
    await job.reject("token_expired")
    await wait_until(lambda: job.sent == [job.first.token, job.second.token])
    await job.finish()
    assert await both == [[1, 9], [1, 9]]


async def test_a_rejected_better_token_ends_no_watch(services: Services, client: Client) -> None:
    """The client returns to the token that has worked; without any both watches raise."""
    job = TwoTokens(services, exp=(100, 200), scope=("watch", "watch"))
    job.rejected.add(job.second.token)
    both = job.watch_both(client)
    await wait_until(lambda: job.sent == [job.first.token, job.second.token, job.first.token])
    await job.reject("token_expired")
    errors = await both
    assert [(type(error), error.code) for error in errors] == [(InvalidToken, "token_expired")] * 2


async def test_a_poll_with_a_rejected_token_uses_the_other_one(services: Services, client: Client) -> None:
    """Long polls take over the next token, too."""
    services.upgrade_status = 403
    job = TwoTokens(services, exp=(200, 100), scope=("watch", "watch"))

    async def poll(request: web.Request) -> web.Response:
        if request.headers["Authorization"] == f"Bearer {job.first.token}":
            return web.json_response({"code": "token_expired", "detail": "Expired."}, status=401)
        return web.json_response(snapshot_json(job.first.id, 9, "succeeded"))

    services.responses = [respond_with(200, snapshot_json(job.first.id, 1)), poll]
    assert await job.watch_both(client) == [[1, 9], [1, 9]]
