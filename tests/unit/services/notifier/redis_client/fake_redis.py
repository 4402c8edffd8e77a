"""A fake Redis server: it records commands, and replies, disconnects or stays silent as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import hiredis

from services.notifier.redis_client.topology import NodeAddress


class FakeRedis:
    """A server that completes the handshake of redis-py, and sends other replies only when a test does."""

    def __init__(self) -> None:
        self.address: NodeAddress
        self.connections: list[asyncio.StreamWriter] = []
        self.commands: list[list[bytes]] = []  # of all connections, without those of the handshake
        self.completes_handshake = True

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Self]:
        """Run a server until the block ends."""
        fake = cls()
        listener = await asyncio.start_server(fake._serve, "127.0.0.1", 0)
        fake.address = NodeAddress(*listener.sockets[0].getsockname()[:2])
        try:
            yield fake
        finally:
            listener.close()
            fake.disconnect_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        parser = hiredis.Reader()
        while data := await reader.read(65_536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                if command[0] != b"CLIENT":
                    self.commands.append(command)
                elif self.completes_handshake:
                    writer.write(b"+OK\r\n")
        writer.close()

    def reply(self, *replies: bytes) -> None:
        """Send replies over the newest connection."""
        self.connections[-1].write(b"".join(line + b"\r\n" for line in replies))

    def disconnect_all(self) -> None:
        """Abort all connections."""
        for writer in self.connections:
            writer.transport.abort()
