"""Waiting for a condition, instead of sleeping, and the conditions that tests wait for."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout

# For something that must happen, however slow the machine is. A test that passes does not wait longer for it.
PATIENCE_S = 240.0
LISTENING_PORTS = range(15_000, 32_000)  # below the ephemeral ports of Linux (32,768) and macOS (49,152)
PORTS_PER_PROCESS = 500


async def wait_until(condition: Callable[[], Any], timeout_s: float = PATIENCE_S, poll_s: float = 0.02) -> Any:
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
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {_source(condition)}"
        await asyncio.sleep(poll_s)


def _source(condition: Callable[[], Any]) -> str:
    return inspect.getsource(condition.func if isinstance(condition, partial) else condition).strip()


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
    """Return unused TCP ports that no other test process takes.

    They are outside the range of ephemeral ports: an outgoing connection could take one of these while a service
    restarts.
    """
    ports: list[int] = []
    while len(ports) < count:
        with suppress(OSError):
            socket.create_server(("127.0.0.1", port := next(_reserved_ports()[1]))).close()
            ports.append(port)
    return ports


@cache
def _reserved_ports() -> tuple[socket.socket, Iterator[int]]:
    """Reserve a range of ports for this process, by listening at the first one until the process exits.

    Checking that a port is unused is not enough: another worker of the same test run could choose it before the service
    that it is for listens.
    """
    for first in LISTENING_PORTS[::PORTS_PER_PROCESS]:
        with suppress(OSError):
            reservation = socket.create_server(("127.0.0.1", first))
            return reservation, itertools.cycle(range(first + 1, first + PORTS_PER_PROCESS))
    raise RuntimeError("other test processes have reserved all ports")
