"""A proxy in front of the notifier that refuses or swallows WebSockets, buffers streams, or freezes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
WEBSOCKET = "WebSocket"


class RequestHead(NamedTuple):
    """The request line and the headers of a request."""

    text: bytes
    kind: str  # "WebSocket", or method and path
    content_length: int

    @classmethod
    def parse(cls, text: bytes) -> RequestHead:
        """Parse a head."""
        request_line, *lines = text.decode().strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        method, path, _ = request_line.split()
        kind = WEBSOCKET if "upgrade" in headers else f"{method} {path.partition('?')[0]}"
        return cls(text, kind, int(headers.get("content-length", 0)))

    @property
    def without_keep_alive(self) -> bytes:
        """The head with `Connection: close`, so that the connection ends with the response."""
        return self.text.replace(b"Connection: keep-alive", b"Connection: close")


class BlockingProxy:
    """A proxy that relays one request per connection and counts them by kind."""

    def __init__(self, port: int, target_port: int) -> None:
        self.port = port
        self.faults: set[str] = set()  # of "refuse", "swallow" and "buffer"; they apply to new connections
        self.request_counts: Counter[str] = Counter()
        self._open: Counter[str] = Counter()
        self._paths = [_open_path()]  # the last one is that of new connections
        self._target_port = target_port

    @property
    def url(self) -> str:
        """The base URL of the proxy."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> dict[str, int]:
        """The number of open connections to the notifier by kind; a kind without any is absent."""
        return {kind: count for kind, count in self._open.items() if count}

    def freeze(self) -> None:
        """Forward nothing any more, and keep all connections open. New ones are accepted, and freeze, too."""
        self._paths[-1].clear()

    def thaw(self) -> None:
        """Forward everything, also what was sent meanwhile."""
        for path in self._paths:
            path.set()

    def open_new_path(self) -> None:
        """Forward what new connections send; those that are frozen stay so."""
        self._paths.append(_open_path())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        path = self._paths[-1]
        with suppress(OSError, asyncio.IncompleteReadError):
            await path.wait()
            head = RequestHead.parse(await reader.readuntil(b"\r\n\r\n"))
            self.request_counts[head.kind] += 1
            if head.kind == WEBSOCKET and "refuse" in self.faults:
                writer.write(FORBIDDEN)
            elif head.kind == WEBSOCKET and "swallow" in self.faults:
                await reader.read()
            else:
                await self._relay(head, path, reader, writer)

    async def _relay(
        self, head: RequestHead, path: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        buffered = "buffer" in self.faults and head.kind != WEBSOCKET
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._open[head.kind] += 1
        tasks: list[asyncio.Task[None]] = []
        try:
            text = head.text if head.kind == WEBSOCKET else head.without_keep_alive
            upstream_writer.write(text + await reader.readexactly(head.content_length))
            directions = (_copy(reader, upstream_writer, path), _copy(upstream_reader, writer, path, buffered=buffered))
            tasks += map(asyncio.create_task, directions)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # the end of one direction ends both
        finally:
            upstream_writer.close()  # before the await below, which may be cancelled
            self._open[head.kind] -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _open_path() -> asyncio.Event:
    """Return a path from client to notifier, which is set unless it is frozen."""
    path = asyncio.Event()
    path.set()
    return path


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: asyncio.Event, *, buffered: bool = False
) -> None:
    """Copy a stream, chunk by chunk or as a whole, while the path is not frozen."""
    while data := await reader.read(-1 if buffered else 65536):
        await path.wait()
        writer.write(data)
        await writer.drain()
    await path.wait()  # a frozen proxy does not close connections either


ALL_TASKS: set[asyncio.Task[None]] = set()  # keeps tasks referenced that a server accepts while it closes


@asynccontextmanager
async def run_proxy(port: int, target_port: int) -> AsyncIterator[BlockingProxy]:
    """Run a proxy until the block ends."""
    proxy = BlockingProxy(port, target_port)
    own_tasks: set[asyncio.Task[None]] = set()

    def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        for tasks in (ALL_TASKS, own_tasks):
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # also if the task is cancelled before it starts

    server = await asyncio.start_server(on_connection, "127.0.0.1", port)
    try:
        yield proxy
    finally:
        server.close()
        while own_tasks:
            for task in own_tasks:
                task.cancel()
            await asyncio.gather(*own_tasks, return_exceptions=True)
