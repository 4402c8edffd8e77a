"""`make demo`: run a few jobs in a separate system on free ports, cancel one of them, and kill the worker."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dev.separate_system import running_system
from headway.cli.job_commands import job_display
from headway.client import Client, Receipt
from headway.contracts import JobSnapshot

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


async def main() -> None:
    """Run the demo."""
    print("Starting Azurite, Valkey, submitter, worker and notifier on free ports", flush=True)
    with TemporaryDirectory(prefix="headway-demo-") as state_dir:
        settings = {"LEASE_S": "3", "WORKER_JOBS": "dev.demo_jobs"}
        async with running_system(Path(state_dir), **settings) as url, Client(url) as client:
            await Demo(client, Path(state_dir)).run()
    print("All processes and files of this demo are removed. Run `make up` to try Headway yourself: see README.md.")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
