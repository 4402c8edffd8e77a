"""A proxy before the notifier, as bad as those of the world: it refuses or swallows sockets and holds streams back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
SOCKET = "WebSocket"


class Head(NamedTuple):
    """What a request begins with."""

    text: bytes
    kind: str  # "WebSocket", or method and path
    length: int  # of its body

    @classmethod
    def read(cls, text: bytes) -> Head:
        """Read a head."""
        first, *lines = text.decode().strip().split("\r\n")
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        method, path, _ = first.split()
        kind = SOCKET if "upgrade" in fields else f"{method} {path.partition('?')[0]}"
        return cls(text, kind, int(fields.get("content-length", 0)))

    @property
    def once(self) -> bytes:
        """The head of a connection that is for one request, so that its end is the connection's."""
        return self.text.replace(b"Connection: keep-alive", b"Connection: close")


class Proxy:
    """Relays one request per connection, and knows which are open."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.blocks: set[str] = set()  # of "refuse", "swallow" and "buffer": how it treats what comes from now on
        self.open: Counter[str] = Counter()  # what it relays now, by kind
        self.asked: Counter[str] = Counter()  # what it has been asked for
        self._target = target

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def lasting(self) -> dict[str, int]:
        """Return the connections to a notifier that are open now, however they are made."""
        return {kind: count for kind, count in self.open.items() if count}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with suppress(OSError, asyncio.IncompleteReadError):
            head = Head.read(await reader.readuntil(b"\r\n\r\n"))
            self.asked[head.kind] += 1
            if head.kind == SOCKET and "refuse" in self.blocks:
                writer.write(REFUSED)
            elif head.kind == SOCKET and "swallow" in self.blocks:
                await reader.read()
            else:
                await self._relay(head, reader, writer)

    async def _relay(self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffering = "buffer" in self.blocks and head.kind != SOCKET
        near, far = await asyncio.open_connection("127.0.0.1", self._target)
        self.open[head.kind] += 1
        tasks: list[asyncio.Task[None]] = []
        try:
            far.write((head.text if head.kind == SOCKET else head.once) + await reader.readexactly(head.length))
            ways = (_pipe(reader, far), _pipe(near, writer, whole=buffering))
            tasks += map(asyncio.create_task, ways)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # whichever side ends first ends both
        finally:
            far.close()  # now: what is awaited below may be cancelled
            self.open[head.kind] -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, whole: bool = False) -> None:
    """Write what is read, as it comes or as a whole."""
    while data := await reader.read(-1 if whole else 65536):
        writer.write(data)
        await writer.drain()


SERVING: set[asyncio.Task[None]] = set()  # held here, since nothing else holds what a closed server has accepted last


@asynccontextmanager
async def proxied(port: int, target: int) -> AsyncIterator[Proxy]:
    """Run a proxy until the block ends."""
    proxy = Proxy(port, target)
    own: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        for tasks in (SERVING, own):
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # also when it was cancelled before it began

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    try:
        yield proxy
    finally:
        server.close()
        while own:
            for task in own:
                task.cancel()
            await asyncio.gather(*own, return_exceptions=True)
