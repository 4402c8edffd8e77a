"""Fixtures that run a notifier alone; the tests play the worker and the browser."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from dev.environment import ROOT
from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner, make_keys
from tests.waiting import PATIENCE_S, free_ports, is_ready, metric, wait_until

ORIGIN = "http://page.example"


@dataclass
class Notifier:
    """A running notifier, its keys and a client session."""

    public: str  # base URL of the public listener
    internal: str  # base URL of the internal listener
    report_key: str
    signer: TokenSigner
    session: aiohttp.ClientSession
    process: asyncio.subprocess.Process
    log: Path

    def token(self, job_id: str, *, scope: str = "watch cancel", ttl_s: float = 3600, kind: str = "k") -> str:
        """Sign a token for a job."""
        now = Timestamp.now()
        return self.signer.sign(
            Grant(
                job_id=uuid.UUID(job_id),
                kind=kind,
                submitted_at=now,
                expires_at=now.after(ttl_s),
                scope=frozenset(scope.split()),
            )
        )

    async def report(self, *reports: dict[str, Any]) -> list[dict[str, Any]]:
        """Post reports and return their verdicts."""
        headers = {"Authorization": f"Bearer {self.report_key}"}
        async with self.session.post(f"{self.internal}/reports", json=list(reports), headers=headers) as response:
            assert response.status == 200, await response.text()
            verdicts: list[dict[str, Any]] = await response.json()
            return verdicts

    async def submit(self, job_id: str, **fields: Any) -> None:
        """Post the submission of a job."""
        now = Timestamp.now()
        times = {"submitted_at": str(now), "expires_at": str(now.after(60))}
        body, headers = [{"id": job_id, "kind": "k", **times, **fields}], {"Authorization": f"Bearer {self.report_key}"}
        async with self.session.post(f"{self.internal}/submissions", json=body, headers=headers) as response:
            assert response.status == 204, await response.text()

    async def append_log(self, job_id: str, text: str, start: int = 0, **fields: Any) -> dict[str, Any]:
        """Append to a job's log, of the delivery of `report`; return the verdict."""
        append = {"job_id": job_id, "message_id": "m", "delivery": 1, "from": start, "text": text, **fields}
        headers = {"Authorization": f"Bearer {self.report_key}"}
        async with self.session.post(f"{self.internal}/logs", json=[append], headers=headers) as response:
            assert response.status == 200, await response.text()
            (verdict,) = await response.json()
            return dict(verdict)

    async def metric(self, name: str) -> float:
        """Return the value of a metric, summed over its labels."""
        return await metric(self.session, self.internal, name)

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket and read its `hello` message."""
        async with self.session.ws_connect(f"{self.public}/live", headers={"Origin": ORIGIN}) as socket:
            assert set((await socket.receive_json())["hello"]) == {"now", "silence_s"}
            yield socket


def new_id() -> str:
    """Return a new job id."""
    return str(uuid.uuid4())


def report(job_id: str, sequence: int, **fields: Any) -> dict[str, Any]:
    """Return a report of a running job; `fields` replace or complete its fields."""
    now = Timestamp.now()
    return {
        "job_id": job_id,
        "kind": "k",
        "message_id": "m",
        "delivery": 1,
        "sequence": sequence,
        "status": "running",
        "submitted_at": str(now),
        "expires_at": str(now.after(3600)),
        "lease_until": str(now.after(60)),
        **fields,
    }


def environment(redis_url: str, keys: Path, port: int, internal_port: int, **settings: str) -> dict[str, str]:
    """Return the environment of a notifier."""
    return {
        **os.environ,
        "NOTIFIER_PORT": str(port),
        "NOTIFIER_INTERNAL_PORT": str(internal_port),
        "BIND_HOST": "127.0.0.1",
        "REDIS_URL": redis_url,
        "REPORT_KEY_FILE": str(keys / "report.key"),
        "TOKEN_PUBLIC_KEY_FILE": str(keys / "token.pub.pem"),
        "ALLOWED_ORIGINS": ORIGIN,
        "SILENCE_S": "0.5",
        "DRAIN_S": "0.2",
        "PING_S": "600",  # tests read messages in order, and a busy machine may need longer than the default interval
        **settings,
    }


def unexpected_errors(log: Path) -> list[str]:
    """Return the lines of a log that show an error of the service itself."""
    markers = ('"level": "error"', "Traceback", "exception")
    return [line for line in log.read_text().splitlines() if any(marker in line for marker in markers)]


@asynccontextmanager
async def running_notifier(stores: dict[str, str], keys: Path, **settings: str) -> AsyncIterator[Notifier]:
    """Run a notifier until the block ends; the test may stop it earlier. The exit code must be 0."""
    make_keys(keys)
    port, internal_port = free_ports(2)
    env = environment(stores["REDIS_URL"], keys, port, internal_port, **settings)
    log = keys / f"notifier-{port}.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.notifier", cwd=ROOT, env=env, stderr=errors
        )
    async with aiohttp.ClientSession() as session:
        public, internal = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{internal_port}"

        try:
            await wait_until(lambda: is_ready(session, f"{internal}/readyz"))
            signer = TokenSigner((keys / "token.pem").read_text())
            yield Notifier(public, internal, (keys / "report.key").read_text().strip(), signer, session, process, log)
            if process.returncode is None:
                process.terminate()
            assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0, log.read_text()[-4000:]
        finally:
            if process.returncode is None:  # the test has failed
                process.kill()
                await process.wait()


@pytest.fixture(scope="module")
async def notifier(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Notifier]:
    """Run a notifier for this module."""
    async with running_notifier(stores, tmp_path_factory.mktemp("keys")) as notifier:
        yield notifier


@pytest.fixture
async def admin(stores: dict[str, str]) -> AsyncIterator[Redis]:
    """Yield a Redis client with which a test changes or corrupts data."""
    async with Redis.from_url(stores["REDIS_URL"]) as client:
        yield client
