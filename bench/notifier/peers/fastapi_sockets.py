"""FastAPI on uvicorn: `POST /pub/<job>` goes through Redis to the sockets at `/ws/<job>`, which it keeps in a dict."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from redis.asyncio import Redis

redis = Redis.from_url(os.environ["BENCH_REDIS_URL"], decode_responses=True)
subscription = redis.pubsub()
watchers: defaultdict[str, set[WebSocket]] = defaultdict(set)


async def deliver() -> None:
    """Send what Redis publishes to whoever watches, for ever."""
    async for message in subscription.listen():
        if message["type"] == "message":
            for watcher in list(watchers[message["channel"]]):
                with suppress(RuntimeError, WebSocketDisconnect):  # it has left meanwhile
                    await watcher.send_text(message["data"])


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Listen to Redis for as long as the application runs."""
    await subscription.subscribe("no job")  # without any subscription there is nothing to listen to
    task = asyncio.create_task(deliver())
    yield
    task.cancel()


async def publish(job: str, request: Request) -> Response:
    """Publish what is posted."""
    await redis.publish(f"job:{job}", await request.body())
    return Response(status_code=202)


async def watch(socket: WebSocket, job: str) -> None:
    """Keep a socket until it closes."""
    channel = f"job:{job}"
    await socket.accept()
    if not watchers[channel]:
        await subscription.subscribe(channel)
    watchers[channel].add(socket)
    with suppress(WebSocketDisconnect):
        while True:
            await socket.receive_text()
    watchers[channel].discard(socket)


app = FastAPI(lifespan=lifespan)
app.add_api_route("/pub/{job}", publish, methods=["POST"])
app.add_api_websocket_route("/ws/{job}", watch)
