"""What the fuzz tests of the notifier share: the inputs of some seconds, and a watcher that they must not disturb."""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from headway.contracts import JobSnapshot, decode
from tests.integration.conftest import Notifier, new_id, report, running_notifier, unexpected_errors
from tests.waiting import PATIENCE_S

log = logging.getLogger(__name__)
T = TypeVar("T")


def generate(draw: Callable[[], T], duration_s: float) -> Iterator[T]:
    """Yield inputs for some seconds."""
    deadline = time.monotonic() + duration_s
    while time.monotonic() < deadline:
        yield draw()


@contextmanager
def input_in_errors(sent: Any) -> Iterator[None]:
    """Add the input to an exception's notes."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"sent: {sent!r}")
        raise


@dataclass
class Bystander:
    """The watcher of another job, which must keep receiving every version; and the counts of the inputs."""

    notifier: Notifier
    socket: aiohttp.ClientWebSocketResponse
    job_id: str
    sequence: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    counts: Counter[tuple[str, bool]] = field(default_factory=Counter)  # (kind of input, whether it got past decoding)

    async def check_connected(self) -> None:
        """Report a step of its own job and check that it arrives."""
        step = next(self.sequence)
        await self.notifier.report(report(self.job_id, step, progress={"current": step}))
        message = await self.socket.receive_json(timeout=PATIENCE_S)
        assert message["job"]["progress"]["current"] == step

    async def check_same_snapshot(self, job: JobSnapshot) -> None:
        """Watch another job for a moment and check that its snapshot is this one."""
        await self.socket.send_json({"watch": self.notifier.token(str(job.id))})
        assert decode(await self.socket.receive_str(timeout=PATIENCE_S), dict[str, JobSnapshot]) == {"job": job}
        await self.socket.send_json({"unwatch": str(job.id)})

    @classmethod
    @asynccontextmanager
    async def running(cls, stores: dict[str, str], keys: Path, **settings: str) -> AsyncIterator[Bystander]:
        """Run a notifier with a watcher; at the end, check its log and the share of inputs that got past decoding."""
        async with (
            running_notifier(stores, keys, MESSAGES_PER_S="1000", PING_S="86400") as notifier,
            notifier.socket() as socket,
        ):
            job_id = new_id()
            await socket.send_json({"watch": notifier.token(job_id, ttl_s=86_400)})
            assert (await socket.receive_json(timeout=PATIENCE_S))["job"]["version"] == 0
            yield (bystander := cls(notifier, socket, job_id))
        assert unexpected_errors(notifier.log) == []
        log.info("inputs that got past decoding or not: %s", dict(bystander.counts))
        for kind in {kind for kind, _ in bystander.counts}:
            assert bystander.counts[kind, True] >= bystander.counts[kind, False], bystander.counts
