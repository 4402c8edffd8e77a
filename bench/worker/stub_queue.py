"""A queue service that answers at once, always the same: it measures the client alone. It replies with its port."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import cast

import uvloop

TEXT = "eyJpZCI6IjEyNmZjNWU5LWMyZmItNDI1YS04NzNiLTc1YzhjYWQ2ZDA1YiIsImtpbmQiOiJub29wIiwicGF5bG9hZCI6eyJhdCI6MTIzfX0="
MESSAGE_ID, POP_RECEIPT = "126fc5e9-c2fb-425a-873b-75c8cad6d05b", "MzBOb3YyMDI2MTA6NTI6MjdhYmNk"
DATE = "Mon, 30 Nov 2026 10:52:27 GMT"
HEADERS = (
    f"x-ms-request-id: {MESSAGE_ID}\r\nx-ms-version: 2025-11-05\r\nDate: {DATE}\r\nx-ms-popreceipt: {POP_RECEIPT}\r\n"
    f"x-ms-time-next-visible: {DATE}\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n"
)
MESSAGE = (
    f"<QueueMessage><MessageId>{MESSAGE_ID}</MessageId><InsertionTime>{DATE}</InsertionTime><ExpirationTime>{DATE}"
    f"</ExpirationTime><PopReceipt>{POP_RECEIPT}</PopReceipt><TimeNextVisible>{DATE}</TimeNextVisible>"
    f"<DequeueCount>1</DequeueCount><MessageText>{TEXT}</MessageText></QueueMessage>"
)
BODY_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
PAGE_SIZE = re.compile(rb"numofmessages=(\d+)")
STATUSES = {b"POST": 201, b"PUT": 204, b"DELETE": 204, b"GET": 200}


class Connection(asyncio.Protocol):
    """A connection of the client, which sends one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when the client has connected."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Called with a part of a request: answer it if it is complete."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = BODY_LENGTH.search(head)
        if end and len(body) >= (0 if length is None else int(length[1])):
            self._received = b""
            self._transport.write(answer(head))


def answer(head: bytes) -> bytes:
    """Return the answer to a request with this head."""
    status = STATUSES[head.partition(b" ")[0]]
    content = ""
    if status != STATUSES[b"DELETE"]:
        size = PAGE_SIZE.search(head)
        messages = MESSAGE * (1 if size is None else int(size[1]))
        body = f'<?xml version="1.0" encoding="utf-8"?><QueueMessagesList>{messages}</QueueMessagesList>'
        content = f"Content-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    return f"HTTP/1.1 {status} -\r\n{HEADERS}{content or chr(13) + chr(10)}".encode()


async def main() -> None:
    """Serve until the pipe is closed."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1")
    async with server:
        while await asyncio.to_thread(sys.stdin.readline):
            print(server.sockets[0].getsockname()[1], flush=True)


if __name__ == "__main__":
    uvloop.run(main())
