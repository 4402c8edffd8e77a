"""Waiting for a condition, instead of sleeping, and the conditions that tests wait for."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout

LISTENING_PORTS = (15_000, 32_000)  # below the ephemeral ports of Linux (32,768) and macOS (49,152)


async def wait_until(condition: Callable[[], Any], timeout_s: float = 20.0, poll_s: float = 0.02) -> Any:
    """Call the condition, which may be async, until it returns a truthy value; return that value.

    Raises:
        AssertionError: there was no such value within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {inspect.getsource(condition).strip()}"
        await asyncio.sleep(poll_s)


async def metric(session: ClientSession, internal: str, name: str) -> float:
    """Return the value of a service's metric, summed over its labels.

    `name` may end with a label in braces, as in `http_requests_total{code="408"}`: then only series with it are summed.
    """
    async with session.get(f"{internal}/metrics") as response:
        text = await response.text()
    name, _, label = name.partition("{")
    series = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in series if label.rstrip("}") in labels)


async def is_ready(session: ClientSession, url: str, timeout_s: float = 5) -> bool:
    """Return whether a server answers 200 at a URL; one that is still starting refuses connections."""
    try:
        async with session.get(url, timeout=ClientTimeout(total=timeout_s)) as response:
            return response.status == 200
    except (ClientError, OSError, TimeoutError):
        return False


def is_running(pid: int) -> bool:
    """Return whether a process exists."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def is_listening(port: int) -> bool:
    """Return whether a server accepts connections at a port of this machine."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def free_ports(count: int) -> list[int]:
    """Return unused TCP ports outside the range of ephemeral ports.

    An outgoing connection could take an ephemeral port while a service restarts. The choice does not depend on the
    tests' seed, because parallel test runs may share it.
    """
    sockets: list[socket.socket] = []
    while len(sockets) < count:
        with suppress(OSError):
            sockets.append(socket.create_server(("127.0.0.1", random.SystemRandom().randrange(*LISTENING_PORTS))))
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports
