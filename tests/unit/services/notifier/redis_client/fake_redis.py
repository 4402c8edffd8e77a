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
        self.asked: list[list[bytes]] = []  # over all connections, but for what signs in
        self.lets_in = True

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
            fake.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        words = hiredis.Reader()
        while data := await reader.read(65_536):
            words.feed(data)
            while (command := words.gets()) is not False:
                if command[0] != b"CLIENT":
                    self.asked.append(command)
                elif self.lets_in:
                    writer.write(b"+OK\r\n")
        writer.close()

    def answer(self, *answers: bytes) -> None:
        """Say something over the newest connection."""
        self.connections[-1].write(b"".join(answer + b"\r\n" for answer in answers))

    def cut(self) -> None:
        """End all connections."""
        for writer in self.connections:
            writer.transport.abort()
