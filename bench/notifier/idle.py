"""`python -m bench.notifier.idle [NUMBER]`: what open connections cost the notifier when their jobs do not change.

Each connection watches a job of its own. The services have their default settings, so that pings and the reads of
silent jobs count. It also shows the memory of the processes, before any connection and with all of them.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import uuid
from pathlib import Path

import aiohttp

from bench.worker.stores import Stores, stores
from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner

DEFAULT_CONNECTIONS = 3_000
OPENING = 20  # at the same time
SETTLE_S = 100.0  # by then, silent jobs are read once a minute
MEASURE_S = 80.0
LIFETIME_S = 3_600


class Watchers:
    """Clients that each watch a job of their own, over a WebSocket."""

    def __init__(self, count: int, env: dict[str, str], folder: Path, session: aiohttp.ClientSession) -> None:
        self.count = count
        self.complete = asyncio.Event()  # all clients watch
        self._watching = 0
        self._url = f"{env['NOTIFIER_URL']}/live"
        self._signer = TokenSigner((folder / "keys/token.pem").read_text())
        self._session = session
        self._opening = asyncio.Semaphore(OPENING)

    async def watch(self) -> None:
        """Watch a job until cancelled; raise RuntimeError if the connection is closed."""
        now = Timestamp.now()
        grant = Grant(job_id=uuid.uuid4(), kind="nap", submitted_at=now, expires_at=now.after(LIFETIME_S))
        async with self._opening:
            socket = await self._session.ws_connect(self._url)
            await socket.send_json({"watch": self._signer.sign(grant)})
            while "job" not in await socket.receive_json():
                pass
        self._watching += 1
        if self._watching == self.count:
            self.complete.set()
        async for _message in socket:
            pass
        raise RuntimeError(f"the connection was closed with {socket.close_code}")


async def measure(running: Stores, watchers: Watchers) -> dict[str, float]:
    """Measure the open connections once all of them watch."""
    idle_mb = running.resident_mb("notifier")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watchers.watch()) for _ in range(watchers.count)]
        await watchers.complete.wait()
        await asyncio.sleep(SETTLE_S)
        before = running.cpu_s("notifier"), running.cpu_s("valkey")
        await asyncio.sleep(MEASURE_S)
        after = running.cpu_s("notifier"), running.cpu_s("valkey")
        open_mb = running.resident_mb("notifier")
        for task in tasks:
            task.cancel()
    used = [(end - start) / MEASURE_S / watchers.count * 1e6 for start, end in zip(before, after, strict=True)]
    return {
        "notifier without connections, MB": idle_mb,
        "memory of a connection, kB": (open_mb - idle_mb) / watchers.count * 1024,
        "CPU of a connection per second, µs": used[0],
        "the same of Redis, µs": used[1],
        "submitter, MB": running.resident_mb("submitter"),
    }


async def main(count: int) -> None:
    """Run the stores and the services; print the figures."""
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        connector = aiohttp.TCPConnector(limit=0)
        async with stores(folder) as running, aiohttp.ClientSession(connector=connector) as session:
            figures = await measure(running, Watchers(count, running.env, folder, session))
    print(", ".join(f"{name}: {value:.2f}" for name, value in figures.items()))


if __name__ == "__main__":
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_CONNECTIONS))
