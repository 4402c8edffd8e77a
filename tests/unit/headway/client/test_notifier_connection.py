"""The connection to a notifier that falls silent, restarts, refuses sockets, or rejects one of several tokens."""

from __future__ import annotations

import asyncio
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
from tests.waiting import wait_until


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


async def test_any_message_shows_that_the_connection_works(services: Services, client: Client) -> None:
    """Messages that arrive more often than `silence_s` keep the connection, repeated hellos and snapshots alike."""
    receipt = services.receipt(uuid4())

    async def chatter(socket: web.WebSocketResponse, _received: list[dict[str, Any]]) -> None:
        for version in range(1, 16):
            await socket.send_json(hello(silence_s=1) if version % 2 else {"job": snapshot_json(receipt.id, version)})
            await asyncio.sleep(0.1)
        await socket.send_json({"job": snapshot_json(receipt.id, 99, "succeeded")})
        await socket.receive()

    services.socket_handlers = [chatter]
    assert (await watch_versions(client, receipt))[-1] == 99
    assert services.socket_count == 1


@pytest.mark.parametrize("silence_s", [None, 0])
async def test_an_older_notifier_may_be_silent(
    services: Services, client: Client, monkeypatch: pytest.MonkeyPatch, silence_s: float | None
) -> None:
    """Without `silence_s` the connection stays open after the time for the hello; pings test it."""
    monkeypatch.setattr(notifier_connection, "HELLO_TIMEOUT_S", 0.3)
    receipt = services.receipt(uuid4())

    async def pause(socket: web.WebSocketResponse, _received: list[dict[str, Any]]) -> None:
        await socket.send_json(hello() if silence_s is None else hello(silence_s=silence_s))
        await asyncio.sleep(0.5)
        await socket.send_json({"job": snapshot_json(receipt.id, 1, "succeeded")})
        await socket.receive()

    services.socket_handlers = [pause]
    assert await watch_versions(client, receipt) == [1]
    assert services.socket_count == 1


async def test_after_a_loss_a_working_client_opens_only_websockets(
    services: Services, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart is more likely than a new proxy: neither a missing hello nor a refused upgrade leads to polls."""
    monkeypatch.setattr(notifier_connection, "HELLO_TIMEOUT_S", 0.1)
    receipt = services.receipt(uuid4())
    services.socket_handlers = [
        send_messages({"job": snapshot_json(receipt.id, 1)}, close=WSCloseCode.SERVICE_RESTART),
        send_messages(hello=None),
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
