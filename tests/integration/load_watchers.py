"""Many watchers of one job each, over every transport, who come back as real clients do and note what they are shown.

A watcher is one task over a bare connection: thousands of them fit into a test's process.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from headway.backoff import full_jitter_s
from headway.contracts import ENDED, JobStatus, Timestamp, decode
from tests.integration.tcp_proxy import HOST

BACKOFF_S, BACKOFF_CAP_S = 0.25, 5.0
RESPONSE_TIMEOUT_S = 15.0  # for a head: longer than a notifier waits for Redis
LONG_POLL_S = 30
POLL_PAUSE_S = 0.1
CLOSE_SERVICE_RESTART = 1012
WEBSOCKET_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class SnapshotHeader(Struct):
    """What a watcher needs of a snapshot."""

    id: str
    version: int
    status: JobStatus
    finished_at: Timestamp | None


class ServerMessage(Struct):
    """What a socket tells."""

    job: SnapshotHeader | None = None
    error: Any = None
    hello: Any = None


class WatchedJob:
    """A job that is watched, and who watches it."""

    def __init__(self, job_id: str, token: str) -> None:
        self.id = job_id
        self.token = token
        self.watchers: list[Watcher] = []

    @property
    def outcome_seen_by_all(self) -> bool:
        """Tell whether all its watchers have seen its ending."""
        return all(watcher.outcome is not None for watcher in self.watchers)


class Watcher(ABC):
    """Watches a job for as long as there is something to see."""

    __slots__ = (
        "connections",
        "done",
        "failures",
        "job",
        "outcome",
        "outcome_seen_at",
        "port",
        "problems",
        "retry_after_s",
        "version",
    )
    transport: ClassVar[str]

    def __init__(self, job: WatchedJob, port: int) -> None:
        self.job = job
        self.port = port
        self.version: int | None = None
        self.outcome: SnapshotHeader | None = None
        self.outcome_seen_at = Timestamp(0)  # when its ending was
        self.done = False
        self.connections = self.failures = 0
        self.retry_after_s = 0.0  # that the server asks for
        self.problems: list[str] = []

    async def run(self) -> None:
        """Watch, and come back after each loss with what was seen."""
        while not self.done:
            try:
                async with asyncio.timeout(RESPONSE_TIMEOUT_S):
                    reader, writer = await asyncio.open_connection(HOST, self.port)
                try:
                    await self.watch(reader, writer)
                finally:
                    writer.transport.abort()
            except (OSError, EOFError):
                pass  # refused, turned away or lost
            wait_s = self.retry_after_s + full_jitter_s(self.failures, BACKOFF_S, BACKOFF_CAP_S)
            self.failures += 1
            self.retry_after_s = 0.0
            await asyncio.sleep(wait_s)

    @abstractmethod
    async def watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Watch over one connection until it ends."""

    def on_connected(self) -> None:
        """Take that the server serves."""
        self.connections += 1
        self.failures = 0

    def on_snapshot(self, snapshot: SnapshotHeader) -> None:
        """Take a snapshot."""
        if snapshot.id != self.job.id:
            self.add_problem(f"was shown {snapshot.id}")
        if snapshot.version < (self.version or 0):
            self.add_problem(f"was shown {snapshot.version} after {self.version}")
        if self.outcome is not None and snapshot.version != self.outcome.version:
            self.add_problem(f"was shown {snapshot.status} after its end")
        self.version = snapshot.version
        if snapshot.status in ENDED and self.outcome is None:
            self.outcome_seen_at, self.outcome = Timestamp.now(), snapshot

    def add_problem(self, problem: str) -> None:
        """Note what must not be."""
        self.problems.append(f"{self.transport} of {self.job.id}: {problem}")

    async def read_head(self, reader: asyncio.StreamReader, wait_s: float = 0) -> tuple[int, dict[str, str]]:
        """Read the head of an answer; return its status and its headers, whose names are in small letters."""
        async with asyncio.timeout(wait_s + RESPONSE_TIMEOUT_S):
            text = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = text.rstrip().split("\r\n")
        return int(first.split()[1]), {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }

    def encode_get(self, path: str, *headers: str) -> bytes:
        """Spell a request."""
        lines = (f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.job.token}", *headers)
        return "\r\n".join((*lines, "", "")).encode()


class WebSocketWatcher(Watcher):
    """Watches over a WebSocket, which an ending does not end."""

    __slots__ = ()
    transport = "websocket"

    async def watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Ask for the job with the version it has, and answer pings."""
        upgrade = (
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {WEBSOCKET_KEY}",
        )
        writer.write("\r\n".join(("GET /live HTTP/1.1", "Host: x", *upgrade, "", "")).encode())
        status, _ = await self.read_head(reader)
        if status == 503:
            return
        if status != 101:
            self.add_problem(f"was answered {status}")
            return
        known = {} if self.version is None else {"version": self.version}
        writer.write(encode_client_frame(0x81, msgspec.json.encode({"watch": self.job.token, **known})))
        while True:
            opcode, data = await read_server_frame(reader)
            if opcode == 0x81:
                self._on_message(decode(data, ServerMessage))
            elif opcode == 0x89:
                writer.write(encode_client_frame(0x8A, data))
            else:
                if (opcode, code := int.from_bytes(data[:2], "big")) != (0x88, CLOSE_SERVICE_RESTART):
                    self.add_problem(f"was closed with {opcode}, {code}")
                writer.write(encode_client_frame(0x88, data))
                return

    def _on_message(self, message: ServerMessage) -> None:
        if message.hello is not None:
            self.on_connected()
        elif message.job is not None:
            self.on_snapshot(message.job)
        else:
            self.add_problem(f"was told {message.error}")


def encode_client_frame(opcode: int, data: bytes) -> bytes:
    """Frame a message of a client, masked by zeros."""
    size = len(data)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([opcode]) + length + b"\0\0\0\0" + data


async def read_server_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read a frame of a server: its first byte and its data."""
    opcode, size = await reader.readexactly(2)
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    return opcode, await reader.readexactly(size)


class EventStreamWatcher(Watcher):
    """Watches as an EventSource does: it comes back after every end, until it is told that there is nothing more."""

    __slots__ = ()
    transport = "sse"

    async def watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read events line by line; the sizes of the chunks around them are no lines of an event."""
        known = [] if self.version is None else [f"Last-Event-ID: {self.version}"]
        writer.write(self.encode_get(f"/live/jobs/{self.job.id}/events", *known))
        status, _ = await self.read_head(reader)
        if status == 204 and self.outcome is not None:
            self.done = True
            return
        if status != 200:  # an EventSource gives up on that
            self.add_problem(f"was answered {status}")
            return
        self.on_connected()
        name = number = data = b""
        while (line := await reader.readline()) not in (b"", b"0\r\n"):
            field, _, value = line.rstrip().partition(b": ")
            if field == b"event":
                name = value
            elif field == b"id":
                number = value
            elif field == b"data":
                data = value
            elif field == b"retry":
                self.pause_s = int(value) / 1000
            elif line == b"\n" and data:
                self._on_event(name, number, data)
                data = b""

    def _on_event(self, name: bytes, number: bytes, data: bytes) -> None:
        if name != b"job":
            self.add_problem(f"was told {data!r}")
            return
        self.on_snapshot(shown := decode(data, SnapshotHeader))
        if shown.version != int(number):
            self.add_problem(f"was shown {shown.version} as {number!r}")


class LongPollWatcher(Watcher):
    """Watches by asking again and again, each time for what is newer, and leaves with the ending."""

    __slots__ = ()
    transport = "poll"

    async def watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Ask on one connection for as long as the server keeps it."""
        self.connections += 1
        while self.outcome is None:
            known = [] if self.version is None else [f'If-None-Match: "{self.version}"', f"Prefer: wait={LONG_POLL_S}"]
            requested_at = time.monotonic()
            writer.write(self.encode_get(f"/live/jobs/{self.job.id}", *known))
            status, headers = await self.read_head(reader, LONG_POLL_S)
            if status == 503:
                return
            await self._on_response(status, headers, await reader.readexactly(int(headers.get("content-length", 0))))
            self.failures = 0
            if headers.get("connection") == "close":
                return
            if time.monotonic() - requested_at < POLL_PAUSE_S:
                await asyncio.sleep(random.uniform(0, POLL_PAUSE_S))
        self.done = True

    async def _on_response(self, status: int, headers: dict[str, str], body: bytes) -> None:
        if status == 200:
            self.on_snapshot(decode(body, SnapshotHeader))
        if status not in {200, 304} or headers["etag"] != f'"{self.version}"':
            self.add_problem(f"was answered {status} of {headers.get('etag')}, and has {self.version}: {body!r}")


WATCHER_TYPES = (WebSocketWatcher, EventStreamWatcher, LongPollWatcher)
