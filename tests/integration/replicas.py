"""Replicas of the notifier as processes that a test stops, kills and restarts, and a proxy in front of them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from dev.environment import ROOT
from headway.tokens import make_keys
from tests.integration.conftest import environment, unexpected_errors
from tests.integration.tcp_proxy import TcpProxy
from tests.waiting import PATIENCE_S, free_ports, is_ready, wait_until

READINESS_POLL_S = 0.2  # between two readiness checks
READINESS_TIMEOUT_S = 2


class Replica:
    """A notifier that can be restarted at the same ports."""

    def __init__(self, redis_url: str, keys: Path, session: aiohttp.ClientSession, **settings: str) -> None:
        self.port, internal_port = free_ports(2)
        self.internal = f"http://127.0.0.1:{internal_port}"
        self.ready = False
        self.log = keys / f"notifier-{self.port}.log"
        self._env = environment(redis_url, keys, self.port, internal_port, **settings)
        self._session = session
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the replica and wait until it is ready."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.notifier", cwd=ROOT, env=self._env, stderr=log
            )
        await wait_until(self.check_ready)

    async def check_ready(self) -> bool:
        """Update `ready` from the replica's `/readyz`, and return it."""
        self.ready = await is_ready(self._session, f"{self.internal}/readyz", READINESS_TIMEOUT_S)
        return self.ready

    async def stop(self) -> None:
        """Stop the replica with SIGTERM, if it runs; the exit code must be 0."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            assert await asyncio.wait_for(self._process.wait(), PATIENCE_S) == 0, self.log.read_text()[-4000:]

    async def kill(self) -> None:
        """Kill the replica."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()


class Replicas:
    """The replicas and the proxy through which watchers connect."""

    def __init__(self, replicas: Sequence[Replica], keys: Path) -> None:
        self.all = replicas
        self.keys = keys
        self.proxy: TcpProxy

    @classmethod
    @asynccontextmanager
    async def running(cls, redis_urls: Sequence[str], keys: Path, **settings: str) -> AsyncIterator[Replicas]:
        """Run a replica per Redis URL until the block ends; their logs must not contain unexpected errors."""
        make_keys(keys)
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
            replicas = cls([Replica(url, keys, session, **settings) for url in redis_urls], keys)
            for replica in replicas.all:
                stack.push_async_callback(replica.stop)
            await asyncio.gather(*(replica.start() for replica in replicas.all))
            replicas.proxy = await stack.enter_async_context(TcpProxy.running(replicas._ready_ports))
            polling = [asyncio.create_task(replicas._poll_readiness(replica)) for replica in replicas.all]
            try:
                yield replicas
            finally:
                for task in polling:
                    task.cancel()
                await asyncio.gather(*polling, return_exceptions=True)
        errors = [error for replica in replicas.all for error in unexpected_errors(replica.log)]
        assert not errors, "\n".join(errors)

    def _ready_ports(self) -> list[int]:
        return [replica.port for replica in self.all if replica.ready]

    async def _poll_readiness(self, replica: Replica) -> None:
        while True:
            await replica.check_ready()
            await asyncio.sleep(READINESS_POLL_S)
