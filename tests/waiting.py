"""Waiting for a condition, which is how tests synchronise: never by a sleep that hopes; and what they wait for."""

from __future__ import annotations

import asyncio
import inspect
import random
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp import ClientSession

LISTENING_PORTS = (15_000, 32_000)  # below what Linux (32,768) and macOS (49,152) give to outgoing connections


async def wait_until(condition: Callable[[], Any], timeout_s: float = 20.0, poll_s: float = 0.02) -> Any:
    """Return the first truthy value of the condition, which may be async; AssertionError when there is none in time."""
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
    """Return the sum of a service's metric over its labels, or over those with the one that the name has in braces."""
    async with session.get(f"{internal}/metrics") as response:
        text = await response.text()
    name, _, label = name.partition("{")
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in found if label.rstrip("}") in labels)


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on, of those that no system gives to outgoing connections.

    Such a connection would be in the way of a service that is stopped and started again. Which ports they are does not
    depend on the tests' seed, which test runs side by side may share.
    """
    sockets: list[socket.socket] = []
    while len(sockets) < count:
        with suppress(OSError):
            sockets.append(socket.create_server(("127.0.0.1", random.SystemRandom().randrange(*LISTENING_PORTS))))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
