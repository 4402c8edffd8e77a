"""A parser of server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass
class Event:
    """One block of an event stream."""

    name: str | None = None
    id: str | None = None
    data: Any = None
    retry: int | None = None
    comment: str | None = None


async def read_events(response: aiohttp.ClientResponse) -> AsyncGenerator[Event, None]:
    """Yield the blocks of an event stream, including comments and reconnection delays."""
    event, data = Event(), list[str]()
    async for raw in response.content:
        name, _, value = raw.decode().rstrip("\n").partition(":")
        value = value.removeprefix(" ")
        if not name and not value:
            event.data = json.loads("\n".join(data)) if data else None
            yield event
            event, data = Event(), list[str]()
        elif not name:
            event.comment = value
        elif name == "data":
            data.append(value)
        elif name == "event":
            event.name = value
        elif name == "id":
            event.id = value
        elif name == "retry":
            event.retry = int(value)
