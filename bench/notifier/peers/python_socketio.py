"""python-socketio on uvicorn: `POST /pub/<job>` emits to the room of the job; a socket's query string names its job."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import socketio

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

manager = socketio.AsyncRedisManager(os.environ["BENCH_REDIS_URL"])
server = socketio.AsyncServer(
    async_mode="asgi", client_manager=manager, cors_allowed_origins="*", transports=["websocket"]
)


async def connect(sid: str, environ: dict[str, str]) -> None:
    """Called when a socket connects: add it to the room of its job."""
    job = parse_qs(environ["QUERY_STRING"])["job"][0]
    await server.enter_room(sid, f"job:{job}")


async def publish(scope: Message, receive: Receive, send: Send) -> None:
    """Emit the request body to the job's room."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await server.emit("report", body.decode(), room=f"job:{scope['path'].removeprefix('/pub/')}")
    await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


server.on("connect", connect)
app = socketio.ASGIApp(server, publish)
