"""A server that lets in, notes what it is asked, and answers, fails or keeps silent as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import hiredis

from services.notifier.redis_client.topology import NodeAddress


class FakeRedis:
    """The server."""

    def __init__(self) -> None:
        self.address: NodeAddress
        self.connections: list[asyncio.StreamWriter] = []
        self.commands: list[list[bytes]] = []  # over all connections, but for what signs in
        self.accepts_handshake = True

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Self]:
        """Listen until the block ends."""
        fake = cls()
        listener = await asyncio.start_server(fake._serve, "127.0.0.1", 0)
        fake.address = NodeAddress(*listener.sockets[0].getsockname()[:2])
        try:
            yield fake
        finally:
            listener.close()
            fake.abort_connections()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        parser = hiredis.Reader()
        while data := await reader.read(65_536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                if command[0] != b"CLIENT":
                    self.commands.append(command)
                elif self.accepts_handshake:
                    writer.write(b"+OK\r\n")
        writer.close()

    def reply(self, *answers: bytes) -> None:
        """Say something over the newest connection."""
        self.connections[-1].write(b"".join(answer + b"\r\n" for answer in answers))

    def abort_connections(self) -> None:
        """End all connections."""
        for writer in self.connections:
            writer.transport.abort()
