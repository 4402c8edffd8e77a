"""What long polls have in common: how long they wait, and how they end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import web
from websockets.frames import CloseCode

from .base import ClientConnection
from .registry import ConnectionRegistry

COALESCE_DELAY_S = 0.02  # waits for further snapshots after the first one, to answer with all of them


class PollConnection(ClientConnection):
    """A request whose answer is delayed. `ready` is set when it should be sent."""

    logs_lifecycle = False
    __slots__ = ("ready",)

    def __init__(self, transport: asyncio.Transport, origin: str | None) -> None:
        super().__init__(transport, origin)
        self.ready = asyncio.Event()

    async def wait_until_ready(self, wait_s: float) -> None:
        """Wait until there is an answer, and a moment for more of it, or until the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self.ready.wait()
                await asyncio.sleep(COALESCE_DELAY_S)

    def reap(self) -> None:
        """Complete the poll if the client has disconnected."""
        if self.is_closing:
            self.end(CloseCode.ABNORMAL_CLOSURE)

    def send_away(self) -> None:
        """Complete the poll; the next one may reach another replica, and goes on there."""
        self.end(CloseCode.TRY_AGAIN_LATER)

    def end(self, code: int) -> None:
        """Complete the poll."""
        self.set_close_code(code)
        self.ready.set()


def close_if_sent_away(registry: ConnectionRegistry, response: web.Response) -> web.Response:
    """Close the connection after the response if clients should use another replica, which a new one reaches."""
    if registry.sends_away:
        response.force_close()
    return response
