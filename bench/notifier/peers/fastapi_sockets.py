"""FastAPI on uvicorn: `POST /pub/<job>` is published through Redis to the WebSockets at `/ws/<job>`, kept in a dict."""

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
    """Forward what Redis publishes to the watchers, until cancelled."""
    async for message in subscription.listen():
        if message["type"] == "message":
            for watcher in list(watchers[message["channel"]]):
                with suppress(RuntimeError, WebSocketDisconnect):  # the watcher has left meanwhile
                    await watcher.send_text(message["data"])


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Receive from Redis while the application runs."""
    await subscription.subscribe("no job")  # redis-py's listen() ends at once without a subscription
    task = asyncio.create_task(deliver())
    yield
    task.cancel()


async def publish(job: str, request: Request) -> Response:
    """Publish the request body."""
    await redis.publish(f"job:{job}", await request.body())
    return Response(status_code=202)


async def watch(socket: WebSocket, job: str) -> None:
    """Subscribe a WebSocket to its job until it closes."""
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
