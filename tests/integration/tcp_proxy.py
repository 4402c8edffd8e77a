"""A TCP proxy that balances connections round-robin, as a Service in Kubernetes does, and can pause or close them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Self

HOST = "127.0.0.1"


class TcpProxy:
    """Forwards each connection to the next target that accepts it; a target is a port of this machine."""

    def __init__(self, targets: Callable[[], Sequence[int]]) -> None:
        self.port = 0
        self.paused = False
        self.connections: set[_Connection] = set()
        self._targets = targets
        self._next_target = itertools.count()
        self._connecting: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def running(cls, targets: Callable[[], Sequence[int]]) -> AsyncIterator[Self]:
        """Run a proxy until the block ends."""
        proxy = cls(targets)
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(proxy), HOST, 0, backlog=4096)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            for task in proxy._connecting:
                task.cancel()
            proxy.cut()

    def pause(self) -> None:
        """Accept connections and data, but forward nothing, like a network that drops all packets."""
        self.paused = True

    def resume(self) -> None:
        """Forward the buffered data, and forward again from now on."""
        self.paused = False
        for connection in list(self.connections):
            connection.flush()

    def cut(self) -> None:
        """Close all connections."""
        for connection in list(self.connections):
            connection.transport.abort()

    def connect_upstream(self, connection: _Connection) -> None:
        """Connect a client to a target."""
        task = asyncio.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: _Connection) -> None:
        ports = self._targets()
        first = next(self._next_target)
        for number in range(len(ports)):
            with suppress(OSError):  # refused: try the next target
                port = ports[(first + number) % len(ports)]
                await asyncio.get_running_loop().create_connection(lambda: _Connection(self, connection), HOST, port)
                return
        connection.transport.abort()


class _Connection(asyncio.Protocol):
    """The connection to a client or to a target; it forwards its data to its peer."""

    def __init__(self, proxy: TcpProxy, peer: _Connection | None = None) -> None:
        self.transport: asyncio.Transport
        self._proxy = proxy
        self._peer = peer
        self._buffer = bytearray()
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._proxy.connections.add(self)
        if self._peer is None:
            self._proxy.connect_upstream(self)
        else:
            self._peer._peer = self
            self._peer.flush()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self.flush()

    def flush(self) -> None:
        """Forward buffered data, then the end of the connection."""
        if self._peer is not None and not self._proxy.paused:
            if self._buffer:
                self._peer.transport.write(bytes(self._buffer))
                self._buffer.clear()
            if self._lost:
                self._peer.transport.close()
        if self._lost and not (self._buffer and self._proxy.paused):
            self._proxy.connections.discard(self)

    def pause_writing(self) -> None:
        if self._peer is not None:
            self._peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._peer is not None:
            self._peer.transport.resume_reading()
