"""`make demo`: run a few jobs in a separate system on free ports, cancel one of them, and kill the worker."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dev.environment import LOCAL, POLL_S, PORTS, ROOT
from headway.cli.job_commands import job_display
from headway.client import Client, Receipt
from headway.contracts import JobSnapshot

READY = "Headway is ready"
JOBS: tuple[tuple[str, Any, float], ...] = (
    ("thumbnails", {"photos": 60}, 0),
    ("crawl", {"pages": 40}, 0),
    ("import", {"rows": 60}, 0),
    ("video", None, 0),
    ("countdown", {"steps": 10, "delay_s": 0.3}, 6),
)


class Demo:
    """The jobs of the demo. While they run, one is cancelled and the worker is killed."""

    def __init__(self, client: Client, state_dir: Path) -> None:
        self._client = client
        self._state_dir = state_dir
        # kind -> (percentage, action): the action is called once, when the job's progress reaches the percentage
        self._interventions = {"thumbnails": (50, self._kill_worker), "video": (2, self._cancel)}

    async def run(self) -> None:
        """Submit the jobs and display them until they end."""
        receipts = {kind: await self._client.submit(kind, payload, delay_s=delay_s) for kind, payload, delay_s in JOBS}
        for kind, receipt in receipts.items():
            print(f"{kind:10} {receipt.link}")
        with job_display(self._client.clock, as_json=False) as display:
            await asyncio.gather(*(self._watch(kind, receipt, display) for kind, receipt in receipts.items()))

    async def _watch(self, kind: str, receipt: Receipt, display: Callable[[JobSnapshot], None]) -> None:
        async for job in self._client.watch(receipt):
            display(job)
            percent, intervene = self._interventions.get(kind, (101, None))
            if intervene is not None and job.progress is not None and (job.progress.percent or 0) >= percent:
                del self._interventions[kind]
                await intervene(receipt)

    async def _kill_worker(self, _receipt: Receipt) -> None:
        print("kill -9 $(cat pid/worker): its jobs restart when their leases expire, in three seconds", flush=True)
        os.kill(int((self._state_dir / "pid/worker").read_text()), signal.SIGKILL)

    async def _cancel(self, receipt: Receipt) -> None:
        print("headway cancel: the video is no longer needed", flush=True)
        await self._client.cancel(receipt)


@asynccontextmanager
async def running_system(state_dir: Path) -> AsyncIterator[str]:
    """Run the whole system for the length of the block; yield the submitter's URL."""
    with ExitStack() as sockets:
        free_ports = [sockets.enter_context(socket.create_server((LOCAL, 0))).getsockname()[1] for _ in PORTS]
    ports = dict(zip(PORTS, map(str, free_ports), strict=True))
    env = {
        **os.environ,
        **ports,
        "HEADWAY_DIR": str(state_dir),
        "LEASE_S": "3",
        "WORKER_JOBS": "dev.demo_jobs",
    }
    log = state_dir / "output"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dev.up", cwd=ROOT, env=env, stdout=output, stderr=output
        )
    try:
        while READY not in log.read_text(errors="replace"):
            if process.returncode is not None:
                raise SystemExit(f"The system did not start:\n{log.read_text(errors='replace')}")
            await asyncio.sleep(POLL_S)
        yield f"http://{LOCAL}:{ports['SUBMITTER_PORT']}"
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.wait()


async def main() -> None:
    """Run the demo."""
    print("Starting Azurite, Valkey, submitter, worker and notifier on free ports", flush=True)
    with TemporaryDirectory(prefix="headway-demo-") as state_dir:
        async with running_system(Path(state_dir)) as url, Client(url) as client:
            await Demo(client, Path(state_dir)).run()
    print("All processes and files of this demo are removed. Run `make up` to try Headway yourself: see README.md.")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
