"""Channels on uvicorn: `POST /pub/<job>` sends to the group of the job; consumers at `/ws/<job>` are its members."""

from __future__ import annotations

import os
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

LAYER = "channels_redis.pubsub.RedisPubSubChannelLayer"

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    CHANNEL_LAYERS={"default": {"BACKEND": LAYER, "CONFIG": {"hosts": [os.environ["BENCH_REDIS_URL"]]}}},
    INSTALLED_APPS=["channels"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="unused",  # noqa: S106
)
django.setup()


class Consumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """A WebSocket that watches one job."""

    async def connect(self) -> None:
        """Join the job's group."""
        self.group = f"job.{self.scope['url_route']['kwargs']['job']}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, _code: int) -> None:
        """Leave the group."""
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def report(self, event: dict[str, Any]) -> None:
        """Forward a message of the group to the client."""
        await self.send(text_data=event["text"])


async def publish(request: HttpRequest, job: str) -> HttpResponse:
    """Send the request body to the job's group."""
    await get_channel_layer().group_send(f"job.{job}", {"type": "report", "text": request.body.decode()})
    return HttpResponse(status=202, headers={"Content-Length": "0"})


urlpatterns = [path("pub/<job>", publish)]
app = ProtocolTypeRouter(
    {"http": get_asgi_application(), "websocket": URLRouter([path("ws/<job>", Consumer.as_asgi())])}
)
