"""The chassis, as a process of its own: how a service starts, answers, drains and dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.waiting import free_ports, wait_until

ROOT = Path(__file__).parents[4]
PROGRAM = """
import asyncio, sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar
from aiohttp import web
from services.runtime.service import ServiceSpec, run
from services.runtime.settings import Port, Settings

folder, mode = Path(sys.argv[1]), sys.argv[2]

class SampleSettings(Settings, frozen=True, kw_only=True):
    service: ClassVar[str] = "sample"
    port: Port

async def appeared(name):
    while not (folder / name).exists():
        await asyncio.sleep(0.01)

async def task():
    await appeared("crash")
    if mode == "crash":
        raise RuntimeError("the task has crashed")

async def drain():
    (folder / "draining").touch()
    await appeared("drained")

async def hello(_request):
    return web.Response(text="hello")

@asynccontextmanager
async def sample(settings):
    yield ServiceSpec(
        public=[web.get("/", hello)], public_port=settings.port, tasks={"task": task}, drain=drain,
        unready_reasons=lambda: [] if (folder / "ready").exists() else ["the other"],
        is_alive=lambda: not (folder / "dead").exists(),
    )
    (folder / "closed").touch()

run(SampleSettings, sample)
"""


class Sample:
    """A running service."""

    def __init__(self, process: subprocess.Popen[str], public: int, internal: int, folder: Path) -> None:
        self.process = process
        self.public = public
        self.internal = internal
        self.folder = folder

    def get(self, path: str, *, public: bool = False) -> tuple[int, str]:
        """Ask once; status 0 when nobody listens."""
        url = f"http://127.0.0.1:{self.public if public else self.internal}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def mark(self, name: str) -> None:
        """Tell the service something."""
        (self.folder / name).touch()


@contextmanager
def serving(folder: Path, mode: str = "good") -> Iterator[Sample]:
    """Run a service until the block ends."""
    public, internal = free_ports(2)
    env = {**os.environ, "PORT": str(public), "INTERNAL_PORT": str(internal), "BIND_HOST": "127.0.0.1"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), mode], cwd=ROOT, env=env, text=True, stderr=subprocess.PIPE
    ) as process:
        try:
            yield Sample(process, public, internal, folder)
        finally:
            with suppress(ProcessLookupError):
                process.kill()


async def test_a_service_answers_its_probes(tmp_path: Path) -> None:
    """Readiness names what it waits for, liveness is the service's own word, and metrics are there."""
    with serving(tmp_path) as sample:
        await wait_until(lambda: sample.get("/", public=True) == (200, "hello"))
        assert sample.get("/readyz") == (503, json.dumps({"ready": False, "waiting_for": ["the other"]}))
        sample.mark("ready")
        assert sample.get("/readyz") == (200, json.dumps({"ready": True, "waiting_for": []}))
        assert sample.get("/livez") == (200, json.dumps({"alive": True}))
        sample.mark("dead")
        assert sample.get("/livez")[0] == 503
        assert 'http_requests_total{code="200",method="GET",route="/"}' in sample.get("/metrics")[1]
        assert sample.get("/readyz", public=True)[0] == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_service_stops_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """Readiness goes first, the public listener answers while the service drains, and the end has code 0."""
    with serving(tmp_path) as sample:
        sample.mark("ready")
        await wait_until(lambda: sample.get("/readyz")[0] == 200)
        sample.process.send_signal(number)
        await wait_until(lambda: (tmp_path / "draining").exists())
        assert sample.get("/readyz") == (503, json.dumps({"ready": False, "waiting_for": ["draining"]}))
        assert sample.get("/livez")[0] == 200
        assert sample.get("/", public=True) == (200, "hello")
        sample.mark("drained")
        await wait_until(lambda: sample.process.poll() is not None)
        assert sample.process.returncode == 0
        assert (tmp_path / "closed").exists()


@pytest.mark.parametrize(("mode", "told"), [("crash", "the task has crashed"), ("end", "has ended")])
async def test_a_task_that_crashes_or_ends_takes_the_service_with_it(tmp_path: Path, mode: str, told: str) -> None:
    """A service with a part missing is no service: it ends with code 1 and says why."""
    with serving(tmp_path, mode) as sample:
        await wait_until(lambda: sample.get("/livez")[0] == 200)
        sample.mark("crash")
        await wait_until(lambda: sample.process.poll() is not None)
        assert sample.process.returncode == 1
        assert sample.process.stderr is not None
        assert told in sample.process.stderr.read()


@pytest.mark.parametrize("service", ["submitter", "worker", "notifier"])
def test_wrong_settings_are_told_and_end_with_code_2(service: str) -> None:
    """A service that is not told enough names everything that is missing, without a traceback."""
    ran = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"{service}: the settings do not fit:\n")
    assert len(ran.stderr.splitlines()) >= 4
    assert "Traceback" not in ran.stderr
