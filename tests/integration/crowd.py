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
from tests.integration.relay import HOST

BACKOFF_S, BACKOFF_CAP_S = 0.25, 5.0
ANSWER_S = 15.0  # for a head: longer than a notifier waits for Redis
WAIT_S = 30
POLL_PAUSE_S = 0.1
RESTART = 1012
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Shown(Struct):
    """What a watcher needs of a snapshot."""

    id: str
    version: int
    status: JobStatus
    finished_at: Timestamp | None


class Told(Struct):
    """What a socket tells."""

    job: Shown | None = None
    error: Any = None
    hello: Any = None


class Job:
    """A job that is watched, and who watches it."""

    def __init__(self, job_id: str, token: str) -> None:
        self.id = job_id
        self.token = token
        self.watchers: list[Watcher] = []

    @property
    def seen_ended(self) -> bool:
        """Tell whether all its watchers have seen its ending."""
        return all(watcher.ended is not None for watcher in self.watchers)


class Watcher(ABC):
    """Watches a job for as long as there is something to see."""

    __slots__ = ("connections", "done", "ended", "failures", "job", "pause_s", "port", "problems", "seen_at", "version")
    transport: ClassVar[str]

    def __init__(self, job: Job, port: int) -> None:
        self.job = job
        self.port = port
        self.version: int | None = None
        self.ended: Shown | None = None
        self.seen_at = Timestamp(0)  # when its ending was
        self.done = False
        self.connections = self.failures = 0
        self.pause_s = 0.0  # that the server asks for
        self.problems: list[str] = []

    async def run(self) -> None:
        """Watch, and come back after each loss with what was seen."""
        while not self.done:
            try:
                async with asyncio.timeout(ANSWER_S):
                    reader, writer = await asyncio.open_connection(HOST, self.port)
                try:
                    await self.watch(reader, writer)
                finally:
                    writer.transport.abort()
            except (OSError, EOFError):
                pass  # refused, turned away or lost
            wait_s = self.pause_s + full_jitter_s(self.failures, BACKOFF_S, BACKOFF_CAP_S)
            self.failures += 1
            self.pause_s = 0.0
            await asyncio.sleep(wait_s)

    @abstractmethod
    async def watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Watch over one connection until it ends."""

    def greeted(self) -> None:
        """Take that the server serves."""
        self.connections += 1
        self.failures = 0

    def show(self, shown: Shown) -> None:
        """Take a snapshot."""
        if shown.id != self.job.id:
            self.complain(f"was shown {shown.id}")
        if shown.version < (self.version or 0):
            self.complain(f"was shown {shown.version} after {self.version}")
        if self.ended is not None and shown.version != self.ended.version:
            self.complain(f"was shown {shown.status} after its end")
        self.version = shown.version
        if shown.status in ENDED and self.ended is None:
            self.seen_at, self.ended = Timestamp.now(), shown

    def complain(self, what: str) -> None:
        """Note what must not be."""
        self.problems.append(f"{self.transport} of {self.job.id}: {what}")

    async def head(self, reader: asyncio.StreamReader, wait_s: float = 0) -> tuple[int, dict[str, str]]:
        """Read the head of an answer; return its status and its headers, whose names are in small letters."""
        async with asyncio.timeout(wait_s + ANSWER_S):
            text = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = text.rstrip().split("\r\n")
        return int(first.split()[1]), {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }

    def get(self, path: str, *headers: str) -> bytes:
        """Spell a request."""
        lines = (f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.job.token}", *headers)
        return "\r\n".join((*lines, "", "")).encode()


class SocketWatcher(Watcher):
    """Watches over a WebSocket, which an ending does not end."""

    __slots__ = ()
    transport = "websocket"

    async def watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Ask for the job with the version it has, and answer pings."""
        upgrade = (
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {KEY}",
        )
        writer.write("\r\n".join(("GET /live HTTP/1.1", "Host: x", *upgrade, "", "")).encode())
        status, _ = await self.head(reader)
        if status == 503:
            return
        if status != 101:
            self.complain(f"was answered {status}")
            return
        known = {} if self.version is None else {"version": self.version}
        writer.write(masked(0x81, msgspec.json.encode({"watch": self.job.token, **known})))
        while True:
            opcode, data = await frame(reader)
            if opcode == 0x81:
                self._take(decode(data, Told))
            elif opcode == 0x89:
                writer.write(masked(0x8A, data))
            else:
                if (opcode, code := int.from_bytes(data[:2], "big")) != (0x88, RESTART):
                    self.complain(f"was closed with {opcode}, {code}")
                writer.write(masked(0x88, data))
                return

    def _take(self, told: Told) -> None:
        if told.hello is not None:
            self.greeted()
        elif told.job is not None:
            self.show(told.job)
        else:
            self.complain(f"was told {told.error}")


def masked(opcode: int, data: bytes) -> bytes:
    """Frame a message of a client, masked by zeros."""
    size = len(data)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([opcode]) + length + b"\0\0\0\0" + data


async def frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read a frame of a server: its first byte and its data."""
    opcode, size = await reader.readexactly(2)
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    return opcode, await reader.readexactly(size)


class StreamWatcher(Watcher):
    """Watches as an EventSource does: it comes back after every end, until it is told that there is nothing more."""

    __slots__ = ()
    transport = "sse"

    async def watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read events line by line; the sizes of the chunks around them are no lines of an event."""
        known = [] if self.version is None else [f"Last-Event-ID: {self.version}"]
        writer.write(self.get(f"/live/jobs/{self.job.id}/events", *known))
        status, _ = await self.head(reader)
        if status == 204 and self.ended is not None:
            self.done = True
            return
        if status != 200:  # an EventSource gives up on that
            self.complain(f"was answered {status}")
            return
        self.greeted()
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
                self._take(name, number, data)
                data = b""

    def _take(self, name: bytes, number: bytes, data: bytes) -> None:
        if name != b"job":
            self.complain(f"was told {data!r}")
            return
        self.show(shown := decode(data, Shown))
        if shown.version != int(number):
            self.complain(f"was shown {shown.version} as {number!r}")


class PollWatcher(Watcher):
    """Watches by asking again and again, each time for what is newer, and leaves with the ending."""

    __slots__ = ()
    transport = "poll"

    async def watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Ask on one connection for as long as the server keeps it."""
        self.connections += 1
        while self.ended is None:
            known = [] if self.version is None else [f'If-None-Match: "{self.version}"', f"Prefer: wait={WAIT_S}"]
            asked_at = time.monotonic()
            writer.write(self.get(f"/live/jobs/{self.job.id}", *known))
            status, headers = await self.head(reader, WAIT_S)
            if status == 503:
                return
            await self._take(status, headers, await reader.readexactly(int(headers.get("content-length", 0))))
            self.failures = 0
            if headers.get("connection") == "close":
                return
            if time.monotonic() - asked_at < POLL_PAUSE_S:
                await asyncio.sleep(random.uniform(0, POLL_PAUSE_S))
        self.done = True

    async def _take(self, status: int, headers: dict[str, str], body: bytes) -> None:
        if status == 200:
            self.show(decode(body, Shown))
        if status not in {200, 304} or headers["etag"] != f'"{self.version}"':
            self.complain(f"was answered {status} of {headers.get('etag')}, and has {self.version}: {body!r}")


KINDS = (SocketWatcher, StreamWatcher, PollWatcher)
