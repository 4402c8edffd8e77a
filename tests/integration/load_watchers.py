"""Lightweight watchers over every transport, for tests with thousands of them in one process.

A watcher is one task over a bare TCP connection. It watches one job, reconnects as real clients do, and records every
violation of the protocol.
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
RESPONSE_TIMEOUT_S = 15.0  # for a response head: longer than a notifier waits for Redis
LONG_POLL_S = 30
POLL_PAUSE_S = 0.1
CLOSE_SERVICE_RESTART = 1012
WEBSOCKET_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class SnapshotHeader(Struct):
    """The fields of a snapshot that a watcher checks."""

    id: str
    version: int
    status: JobStatus
    finished_at: Timestamp | None


class ServerMessage(Struct):
    """A message of the server on a WebSocket."""

    job: SnapshotHeader | None = None
    error: Any = None
    hello: Any = None


class WatchedJob:
    """A job and its watchers."""

    def __init__(self, job_id: str, token: str) -> None:
        self.id = job_id
        self.token = token
        self.watchers: list[Watcher] = []

    @property
    def outcome_seen_by_all(self) -> bool:
        """Whether all watchers have seen the job's outcome."""
        return all(watcher.outcome is not None for watcher in self.watchers)


class Watcher(ABC):
    """Watches a job until its transport has nothing more to send."""

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
        self.outcome_seen_at = Timestamp(0)
        self.done = False
        self.connections = self.failures = 0
        self.retry_after_s = 0.0  # the reconnection delay that the server asked for
        self.problems: list[str] = []

    async def run(self) -> None:
        """Watch, and reconnect after each loss with the last version seen."""
        while not self.done:
            try:
                async with asyncio.timeout(RESPONSE_TIMEOUT_S):
                    reader, writer = await asyncio.open_connection(HOST, self.port)
                try:
                    await self.watch(reader, writer)
                finally:
                    writer.transport.abort()
            except (OSError, EOFError):
                pass  # refused, rejected or lost
            wait_s = self.retry_after_s + full_jitter_s(self.failures, BACKOFF_S, BACKOFF_CAP_S)
            self.failures += 1
            self.retry_after_s = 0.0
            await asyncio.sleep(wait_s)

    @abstractmethod
    async def watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Watch over one connection until it ends."""

    def on_connected(self) -> None:
        """Called when the server has accepted the connection."""
        self.connections += 1
        self.failures = 0

    def on_snapshot(self, snapshot: SnapshotHeader) -> None:
        """Called with each snapshot: check its id, its version and that an outcome does not change."""
        if snapshot.id != self.job.id:
            self.add_problem(f"received a snapshot of {snapshot.id}")
        if snapshot.version < (self.version or 0):
            self.add_problem(f"received version {snapshot.version} after {self.version}")
        if self.outcome is not None and snapshot.version != self.outcome.version:
            self.add_problem(f"received {snapshot.status} after the job had ended")
        self.version = snapshot.version
        if snapshot.status in ENDED and self.outcome is None:
            self.outcome_seen_at, self.outcome = Timestamp.now(), snapshot

    def add_problem(self, problem: str) -> None:
        """Record a violation of the protocol."""
        self.problems.append(f"{self.transport} of {self.job.id}: {problem}")

    async def read_head(self, reader: asyncio.StreamReader, wait_s: float = 0) -> tuple[int, dict[str, str]]:
        """Read the head of a response; return its status and its headers, with their names in lower case."""
        async with asyncio.timeout(wait_s + RESPONSE_TIMEOUT_S):
            text = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = text.rstrip().split("\r\n")
        return int(first.split()[1]), {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }

    def encode_get(self, path: str, *headers: str) -> bytes:
        """Encode a GET request."""
        lines = (f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.job.token}", *headers)
        return "\r\n".join((*lines, "", "")).encode()


class WebSocketWatcher(Watcher):
    """Watches over a WebSocket, which stays open after the job has ended."""

    __slots__ = ()
    transport = "websocket"

    async def watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Subscribe to the job with the last version seen, and answer pings."""
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
        version = {} if self.version is None else {"version": self.version}
        writer.write(encode_client_frame(0x81, msgspec.json.encode({"watch": self.job.token, **version})))
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
            self.add_problem(f"received the error {message.error}")


def encode_client_frame(opcode: int, data: bytes) -> bytes:
    """Encode a frame of a client, masked with zeros."""
    size = len(data)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xff" + size.to_bytes(8, "big")
    return bytes([opcode]) + length + b"\0\0\0\0" + data


async def read_server_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read a frame of the server; return its first byte and its payload."""
    opcode, size = await reader.readexactly(2)
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    return opcode, await reader.readexactly(size)


class EventStreamWatcher(Watcher):
    """Watches as an EventSource does: it reconnects after every end of the stream, until the response is 204."""

    __slots__ = ()
    transport = "sse"

    async def watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read events line by line; lines with chunk sizes match no field."""
        last_event_id = [] if self.version is None else [f"Last-Event-ID: {self.version}"]
        writer.write(self.encode_get(f"/live/jobs/{self.job.id}/events", *last_event_id))
        status, _ = await self.read_head(reader)
        if status == 204 and self.outcome is not None:
            self.done = True
            return
        if status != 200:  # an EventSource does not reconnect after it
            self.add_problem(f"was answered {status}")
            return
        self.on_connected()
        name = event_id = data = b""
        while (line := await reader.readline()) not in (b"", b"0\r\n"):
            field, _, value = line.rstrip().partition(b": ")
            if field == b"event":
                name = value
            elif field == b"id":
                event_id = value
            elif field == b"data":
                data = value
            elif field == b"retry":
                self.retry_after_s = int(value) / 1000
            elif line == b"\n" and data:
                self._on_event(name, event_id, data)
                data = b""

    def _on_event(self, name: bytes, event_id: bytes, data: bytes) -> None:
        if name != b"job":
            self.add_problem(f"received the event {data!r}")
            return
        self.on_snapshot(snapshot := decode(data, SnapshotHeader))
        if snapshot.version != int(event_id):
            self.add_problem(f"received version {snapshot.version} with the event id {event_id!r}")


class LongPollWatcher(Watcher):
    """Watches with long polls, each for a version newer than the last, and stops when the job has ended."""

    __slots__ = ()
    transport = "poll"

    async def watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send long polls over one connection for as long as the server keeps it open."""
        self.connections += 1
        while self.outcome is None:
            conditions = [f'If-None-Match: "{self.version}"', f"Prefer: wait={LONG_POLL_S}"]
            request_headers = [] if self.version is None else conditions
            requested_at = time.monotonic()
            writer.write(self.encode_get(f"/live/jobs/{self.job.id}", *request_headers))
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
            self.add_problem(f"was answered {status} with ETag {headers.get('etag')} at {self.version}: {body!r}")


WATCHER_TYPES = (WebSocketWatcher, EventStreamWatcher, LongPollWatcher)
