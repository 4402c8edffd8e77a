"""A relay of TCP connections, each to the next target that takes it, as a Service in Kubernetes; and it can hold."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Self

HOST = "127.0.0.1"


class Relay:
    """Passes connections on to ports of this machine, one after the other, without an eye for who comes."""

    def __init__(self, targets: Callable[[], Sequence[int]]) -> None:
        self.port = 0
        self.holding = False
        self.sides: set[_Side] = set()
        self._targets = targets
        self._turn = itertools.count()
        self._placing: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def running(cls, targets: Callable[[], Sequence[int]]) -> AsyncIterator[Self]:
        """Run a relay until the block ends."""
        relay = cls(targets)
        server = await asyncio.get_running_loop().create_server(lambda: _Side(relay), HOST, 0, backlog=4096)
        relay.port = server.sockets[0].getsockname()[1]
        try:
            yield relay
        finally:
            server.close()
            for task in relay._placing:
                task.cancel()
            for side in list(relay.sides):
                side.transport.abort()

    def hold(self) -> None:
        """Take connections and all that is sent, and pass nothing on: a network that has lost its way."""
        self.holding = True

    def release(self) -> None:
        """Pass on again, beginning with what was held."""
        self.holding = False
        for side in list(self.sides):
            side.flush()

    def place(self, side: _Side) -> None:
        """Find the other side of a new connection."""
        task = asyncio.create_task(self._place(side))
        self._placing.add(task)
        task.add_done_callback(self._placing.discard)

    async def _place(self, side: _Side) -> None:
        ports = self._targets()
        first = next(self._turn)
        for number in range(len(ports)):
            with suppress(OSError):  # it refuses: the next one may not
                port = ports[(first + number) % len(ports)]
                await asyncio.get_running_loop().create_connection(lambda: _Side(self, side), HOST, port)
                return
        side.transport.abort()


class _Side(asyncio.Protocol):
    """One side of a relayed connection; what comes is for the other."""

    def __init__(self, relay: Relay, other: _Side | None = None) -> None:
        self.transport: asyncio.Transport
        self._relay = relay
        self._other = other
        self._kept = bytearray()
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._relay.sides.add(self)
        if self._other is None:
            self._relay.place(self)
        else:
            self._other._other = self
            self._other.flush()

    def data_received(self, data: bytes) -> None:
        self._kept += data
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self.flush()

    def flush(self) -> None:
        """Pass on what there is: bytes first, then that there will be no more."""
        if self._other is not None and not self._relay.holding:
            if self._kept:
                self._other.transport.write(bytes(self._kept))
                self._kept.clear()
            if self._lost:
                self._other.transport.close()
        if self._lost and not (self._kept and self._relay.holding):
            self._relay.sides.discard(self)

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.transport.resume_reading()
