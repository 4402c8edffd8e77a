"""A submitter and a notifier that fail in the ways that real ones do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import jwt
from aiohttp import web

from headway.client import Receipt

SocketHandler = Callable[[web.WebSocketResponse, list[dict[str, Any]]], Awaitable[None]]


def token_for(job_id: UUID, **claims: Any) -> str:
    """Return a token that names a job; the fake services do not verify it."""
    return jwt.encode({"sub": str(job_id), **claims}, "a key that the fake services do not check")


def list_token(**claims: Any) -> str:
    """Return a list token; the fake services do not verify it."""
    return jwt.encode(
        {"filter": {}, "scope": "list watch cancel", **claims}, "a key that the fake services do not check"
    )


def hello(**fields: Any) -> dict[str, Any]:
    """Return the message that a notifier sends first; one of version 0.1 adds no further fields to its time."""
    return {"hello": {"now": "2026-01-01T00:00:00.000Z", **fields}}


HELLO = hello()


def snapshot_json(job_id: UUID, version: int, status: str = "running", **fields: Any) -> dict[str, Any]:
    """Return a snapshot as the notifier sends it."""
    time = "2026-01-01T00:00:00.000Z"
    return {
        "id": str(job_id),
        "kind": "k",
        "status": status,
        "version": version,
        "submitted_at": time,
        "expires_at": time,
        **fields,
    }


class Services:
    """A submitter and a notifier in one: tests set the responses and inspect the requests."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[web.BaseRequest] = []
        self.bodies: list[bytes] = []
        self.received: list[dict[str, Any]] = []
        self.socket_count = 0
        self.responses: list[Callable[[web.Request], Awaitable[web.StreamResponse]]] = []
        self.upgrade_status = 101
        self.upgrade_headers: dict[str, str] = {}
        self.socket_handlers: list[SocketHandler] = []

    def receipt(self, job_id: UUID) -> Receipt:
        """Return the receipt of a job."""
        live = f"{self.url}/live/jobs/{job_id}"
        links = {"page": f"{self.url}/jobs/{job_id}#{token_for(job_id)}", "live": live}
        return Receipt(job_id, token_for(job_id), links)

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """Send the next response to a plain request; the last response is repeated."""
        self.requests.append(request)
        self.bodies.append(await request.read())
        handler = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        return await handler(request)

    async def serve_socket(self, request: web.Request) -> web.StreamResponse:
        """Serve a WebSocket with the next handler; the last handler is repeated."""
        self.socket_count += 1
        if self.upgrade_status != 101:
            return web.Response(status=self.upgrade_status, headers=self.upgrade_headers)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        serve = self.socket_handlers.pop(0) if len(self.socket_handlers) > 1 else self.socket_handlers[0]
        await serve(socket, self.received)
        return socket


def respond_with(status: int, body: Any = None, **headers: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler that responds with JSON."""

    async def respond(_request: web.Request) -> web.Response:
        return web.json_response(body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return respond


async def drop_response(request: web.Request) -> web.Response:
    """Close the connection without a response."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def send_messages(
    *messages: dict[str, Any], close: int | None = None, hello: dict[str, Any] | None = HELLO
) -> SocketHandler:
    """Return a handler that sends hello, receives a message, sends these messages, and closes or keeps receiving."""

    async def serve(socket: web.WebSocketResponse, received: list[dict[str, Any]]) -> None:
        if hello:
            await socket.send_json(hello)
        received.append(await socket.receive_json())
        for sent in messages:
            await socket.send_json(sent)
        if close is not None:
            await socket.close(code=close)
        async for message in socket:
            received.append(message.json())  # noqa: PERF401 - visible while the socket is open

    return serve


def end_jobs(*receipts: Receipt) -> SocketHandler:
    """Return a handler that sends hello, and a snapshot of each watched job as succeeded."""

    async def serve(socket: web.WebSocketResponse, received: list[dict[str, Any]]) -> None:
        await socket.send_json(HELLO)
        jobs = {receipt.token: receipt.id for receipt in receipts}
        async for message in socket:
            request = message.json()
            received.append(request)
            if "watch" in request:
                await socket.send_json({"job": snapshot_json(jobs[request["watch"]], 1, "succeeded")})

    return serve
