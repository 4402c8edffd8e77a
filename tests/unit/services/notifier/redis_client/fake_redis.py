"""A fake Redis server: it records commands, and replies, disconnects or stays silent as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ssl import SSLContext
from typing import Any, Self

import hiredis

from services.notifier.redis_client.connector import NodeAddress


class FakeRedis:
    """A server that completes the handshake, and sends other replies only when a test does."""

    def __init__(self) -> None:
        self.address: NodeAddress
        self.connections: list[asyncio.StreamWriter] = []
        self.client_certificates: list[dict[str, Any] | None] = []  # by connection
        self.handshake_commands: list[list[bytes]] = []  # of all connections
        self.commands: list[list[bytes]] = []  # the other commands, of all connections
        self.handshake_replies: dict[bytes, bytes] = {b"HELLO": b"*2\r\n+role\r\n+master", b"SELECT": b"+OK"}
        self.completes_handshake = True

    @classmethod
    @asynccontextmanager
    async def running(cls, tls: SSLContext | None = None) -> AsyncIterator[Self]:
        """Run a server until the block ends."""
        fake = cls()
        listener = await asyncio.start_server(fake._serve, "127.0.0.1", 0, ssl=tls)
        fake.address = NodeAddress(*listener.sockets[0].getsockname()[:2])
        try:
            yield fake
        finally:
            listener.close()
            fake.disconnect_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        self.client_certificates.append(writer.get_extra_info("peercert"))
        parser = hiredis.Reader()
        with suppress(ConnectionResetError):
            while data := await reader.read(65_536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    self._on_command(command)
        writer.close()

    def _on_command(self, command: list[bytes]) -> None:
        reply = self.handshake_replies.get(command[0])
        if reply is None:
            self.commands.append(command)
            return
        self.handshake_commands.append(command)
        if self.completes_handshake:
            self.reply(reply)

    def reply(self, *replies: bytes) -> None:
        """Send replies over the newest connection."""
        self.connections[-1].write(b"".join(line + b"\r\n" for line in replies))

    def open_connections(self) -> list[asyncio.StreamWriter]:
        """Return the connections that neither side has closed."""
        return [writer for writer in self.connections if not writer.is_closing()]

    def disconnect_all(self) -> None:
        """Abort all connections."""
        for writer in self.connections:
            writer.transport.abort()
