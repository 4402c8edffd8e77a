"""The whole system as `make up` runs it, on free ports and in its own state folder."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from dev.environment import PORTS, ROOT, service, valkey
from dev.up import MAX_DEATHS, WINDOW_S
from headway.contracts import JobSnapshot, Timestamp, decode
from tests.waiting import PATIENCE_S, free_ports, is_ready, metric, wait_until

READY = "Headway is ready: "
JOBS = "tests.integration.sample_jobs"
ENDED = ("succeeded", "failed", "cancelled")
RETRY_PAUSE_S = 0.05  # between two attempts to connect


class Stack:
    """A running `make up`, with the operations of its users, callers and workers."""

    def __init__(self, folder: Path, session: aiohttp.ClientSession) -> None:
        self.folder = folder
        self.session = session
        self.output: list[str] = []
        self._restarts: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MAX_DEATHS - 1))

    @property
    def env(self) -> dict[str, str]:
        """The environment of the services."""
        lines = (self.folder / "env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def url(self) -> str:
        """The base URL of the submitter."""
        return self.env["SUBMITTER_URL"]

    def pid(self, name: str) -> int | None:
        """Return the current process id of a process, None if it has none."""
        with suppress(FileNotFoundError, ValueError):
            return int((self.folder / "pid" / name).read_text())
        return None

    async def kill(self, name: str, signal_number: signal.Signals = signal.SIGKILL) -> None:
        """Kill a process and wait until it has been restarted and is ready."""
        await self.wait_until_restartable(name)
        old_pid = self.pid(name)
        assert old_pid is not None
        os.kill(old_pid, signal_number)
        await self.wait_for_restart(name, old_pid)

    async def wait_until_restartable(self, name: str) -> None:
        """Wait until a process that dies now is restarted: the launcher gives up after three deaths in ten seconds."""
        restarts = self._restarts[name]
        await wait_until(lambda: len(restarts) < MAX_DEATHS - 1 or time.monotonic() - restarts[0] > WINDOW_S)

    async def wait_for_restart(self, name: str, old_pid: int) -> None:
        """Wait until a process that a signal ends has been restarted and is ready."""
        await wait_until(lambda: self.pid(name) not in (None, old_pid))
        self._restarts[name].append(time.monotonic())
        program = valkey(self.env, self.folder) if name == "valkey" else service(name, self.env)
        await wait_until(program.is_ready)

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Freeze a process during the block: a worker, so that a test can watch a job before it starts."""
        pid = self.pid(name)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    async def submit(self, kind: str = "countdown", payload: Any = None, **more: Any) -> dict[str, Any]:
        """Submit a job as a caller does; return the receipt."""
        body = {"kind": kind, "payload": {} if payload is None else payload, **more}
        async with self.session.post(f"{self.url}/jobs", json=body) as response:
            receipt: dict[str, Any] = await response.json()
            assert response.status == 202, receipt
            return receipt

    async def submit_persistently(self, kind: str, payload: Any = None, **more: Any) -> dict[str, Any]:
        """Submit a job, and repeat the request while the submitter or the queue is unavailable; return the receipt."""
        body, headers = {"kind": kind, "payload": payload, **more}, {"Idempotency-Key": str(uuid.uuid4())}
        while True:
            with suppress(aiohttp.ClientError, OSError):
                async with self.session.post(f"{self.url}/jobs", json=body, headers=headers) as response:
                    receipt: dict[str, Any] = await response.json(content_type=None)
                    if response.status == 202:
                        return receipt
                    assert response.status == 503, receipt
            await asyncio.sleep(RETRY_PAUSE_S)

    async def cancel(self, receipt: dict[str, Any]) -> dict[str, Any]:
        """Cancel a job as a caller does; return the snapshot in the response."""
        headers = {"Authorization": f"Bearer {receipt['token']}"}
        async with self.session.post(receipt["links"]["cancel"], headers=headers) as response:
            snapshot: dict[str, Any] = await response.json()
            assert response.status == 202, snapshot
            return snapshot

    async def cancel_persistently(self, receipt: dict[str, Any]) -> None:
        """Cancel a job, and repeat the request while the notifier is unavailable."""
        headers = {"Authorization": f"Bearer {receipt['token']}"}
        while True:
            with suppress(aiohttp.ClientError, OSError):
                async with self.session.post(receipt["links"]["cancel"], headers=headers) as response:
                    if response.status == 202:
                        return
                    assert response.status == 503, await response.text()
            await asyncio.sleep(RETRY_PAUSE_S)

    def internal(self, service: str) -> str:
        """Return the base URL of a service's internal listener."""
        return f"http://127.0.0.1:{self.env[f'{service.upper()}_INTERNAL_PORT']}"

    async def is_ready(self, service: str) -> bool:
        """Return whether a service is ready."""
        return await is_ready(self.session, f"{self.internal(service)}/readyz")

    async def metric(self, name: str, service: str = "notifier") -> float:
        """Return the value of a metric of a service, summed over its labels; wait while the service restarts."""

        async def read() -> tuple[float] | None:
            with suppress(aiohttp.ClientConnectorError):  # an earlier test has killed it
                return (await metric(self.session, self.internal(service), name),)
            return None

        (value,) = await wait_until(read)
        return float(value)

    async def report(self, receipt: dict[str, Any], sequence: int = 1, **fields: Any) -> dict[str, Any]:
        """Send a report as a worker does and return the verdict.

        The job should be delayed, so that the real worker does not receive it.
        """
        now = Timestamp.now()
        times = {"submitted_at": str(now), "expires_at": str(now.after(3600))}
        fence = {"message_id": "test", "delivery": 1, "sequence": sequence}
        body = {"job_id": receipt["id"], "kind": "countdown", "status": "running", **fence, **times, **fields}
        verdict: dict[str, Any] = (await self._post_internally("/reports", body))[0]
        return verdict

    async def append_log(self, receipt: dict[str, Any], start: int, text: str, **fields: Any) -> None:
        """Append to a job's log as the worker of `report` does; everyone who watches the job may read it."""
        fence = {"message_id": "test", "delivery": 1}
        piece = {"job_id": receipt["id"], "from": start, "text": text, "watchers": True, **fence, **fields}
        (verdict,) = await self._post_internally("/logs", piece)
        assert verdict["accepted"], verdict

    async def record_submission(self, receipt: dict[str, Any], **fields: Any) -> None:
        """Send a submission as a submitter does."""
        now = Timestamp.now()
        times = {"submitted_at": str(now), "expires_at": str(now.after(3600))}
        body = {"id": receipt["id"], "kind": "countdown", **times, **fields}
        await self._post_internally("/submissions", body)

    async def _post_internally(self, path: str, element: dict[str, Any]) -> Any:
        """Post one element to the notifier's internal listener as a service does; return the response, if any."""
        key = (self.folder / "keys" / "report.key").read_text().split()[0]
        url, headers = f"{self.env['NOTIFIER_INTERNAL_URL']}{path}", {"Authorization": f"Bearer {key}"}
        async with self.session.post(url, json=[element], headers=headers) as response:
            assert response.status in (200, 204), await response.text()
            return await response.json() if response.status == 200 else None

    async def snapshot(self, job_id: str, token: str) -> dict[str, Any]:
        """Return a job's snapshot, read over HTTP."""
        url = f"{self.env['LIVE_URL']}/live/jobs/{job_id}"
        async with self.session.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
            text = await response.read()
            assert response.status == 200, text
            decode(text, JobSnapshot)
            snapshot: dict[str, Any] = await response.json()
            return snapshot

    async def submit_recorded(self, **more: Any) -> dict[str, Any]:
        """Submit a delayed job, and wait until it has a record, so that it gets no newer version by itself."""
        receipt = await self.submit(delay_s=3600, **more)

        async def has_record() -> bool:
            return bool((await self.snapshot(receipt["id"], receipt["token"]))["version"])

        await wait_until(has_record)
        return receipt

    async def watch(self, token: str, version: int | None = None) -> AsyncIterator[dict[str, Any]]:
        """Yield a job's snapshots until it ends; reconnect after a lost connection."""
        while True:
            with suppress(aiohttp.ClientError, OSError):
                async with self.session.ws_connect(f"{self.env['LIVE_URL']}/live") as socket:
                    subscribed_version = {} if version is None else {"version": version}
                    await socket.send_json({"watch": token, **subscribed_version})
                    async for message in socket:
                        job = message.json().get("job")
                        if job is not None:
                            version = job["version"] or None
                            yield job
                            if job["status"] in ENDED:
                                return
            await asyncio.sleep(RETRY_PAUSE_S)


@asynccontextmanager
async def running(folder: Path, *arguments: str, ready: str = READY, **env: str) -> AsyncIterator[Stack]:
    """Run the whole system, or the part that the arguments name, until the block ends."""
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dev.up",
        *arguments,
        cwd=ROOT,
        limit=1 << 20,
        env={**os.environ, **ports, "HEADWAY_DIR": str(folder), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with aiohttp.ClientSession() as session:
        stack = Stack(folder, session)
        reader = asyncio.create_task(_read(process, stack.output))
        try:
            await wait_until(lambda: any(ready in line for line in stack.output) or process.returncode is not None)
            assert process.returncode is None, "".join(stack.output)
            yield stack
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.wait(), PATIENCE_S)
            await reader


async def _read(process: asyncio.subprocess.Process, output: list[str]) -> None:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        output.append(line.decode(errors="replace"))
