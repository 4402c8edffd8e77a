"""The lifecycle of a service in a subprocess: start, probes, drain, shutdown and crash."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from services.runtime.service import run_forever
from tests.waiting import PATIENCE_S, free_ports, wait_until

ROOT = Path(__file__).parents[4]
PROGRAM = """
import asyncio, os, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar
from aiohttp import web
from services.runtime import event_loop
from services.runtime.process_state import ProcessState
from services.runtime.service import ServiceSpec, run
from services.runtime.settings import Port, Settings

folder, mode = Path(sys.argv[1]), sys.argv[2]

class SampleSettings(Settings, frozen=True, kw_only=True):
    service: ClassVar[str] = "sample"
    port: Port

async def raise_error():
    (folder / "raised").touch()
    raise {"KeyboardInterrupt": KeyboardInterrupt, "SystemExit": SystemExit}[mode]("a-payload")

async def wait_for_file(name):
    while not (folder / name).exists():
        await asyncio.sleep(0.01)

async def take_exit_code():
    program = await asyncio.create_subprocess_exec("sleep", "1000")
    program.kill()
    os.waitpid(program.pid, 0)
    (folder / "raised").touch()

def raise_timeout(*_):
    raise TimeoutError

async def change_signals():
    loop = asyncio.get_running_loop()
    state = ProcessState(*event_loop.loop_settings(loop))
    for change in (signal_function, signal.signal, lambda *_: signal.set_wakeup_fd(-1)):
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGCHLD):
            try:
                change(number, raise_timeout)
            except ValueError:
                (folder / f"refused-{number}").touch()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os._exit(signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL)
    assert os.wait()[1] == 0
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0.001, 0.001)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, raise_timeout)
    loop.remove_signal_handler(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    executor = ThreadPoolExecutor()
    loop.set_default_executor(executor)
    executor.shutdown()
    loop.set_exception_handler(raise_timeout)
    loop.set_task_factory(raise_timeout)
    state.restore()
    await asyncio.to_thread(time.sleep, 0.05)
    asyncio.create_task(asyncio.sleep(0))
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        await asyncio.sleep(0.01)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    (folder / "raised").touch()

async def task():
    if mode == "signals":
        await wait_for_file("started")
        await change_signals()
    if mode == "exit code":
        await take_exit_code()
    if mode in ("KeyboardInterrupt", "SystemExit"):
        asyncio.create_task(raise_error())
    await wait_for_file("crash")
    if mode == "BaseException":
        raise BaseException("a-payload")
    if mode == "crash":
        raise RuntimeError("the task has crashed")

async def drain():
    (folder / "draining").touch()
    await wait_for_file("drained")

async def hello(_request):
    return web.Response(text="hello")

@asynccontextmanager
async def sample(settings):
    global signal_function
    from signal import signal as signal_function
    yield ServiceSpec(
        public=[web.get("/", hello)], public_port=settings.port, tasks={"task": task}, drain=drain,
        unready_reasons=lambda: [] if (folder / "ready").exists() else ["a dependency"],
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
        """Send a GET request; return status and body, or status 0 if the connection is refused."""
        url = f"http://127.0.0.1:{self.public if public else self.internal}{path}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def create_file(self, name: str) -> None:
        """Signal the service by creating a file."""
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


async def test_a_service_answers_probes(tmp_path: Path) -> None:
    """Readiness lists its reasons, liveness comes from the service, and metrics are served."""
    with serving(tmp_path) as sample:
        await wait_until(lambda: sample.get("/", public=True) == (200, "hello"))
        assert sample.get("/readyz") == (503, json.dumps({"ready": False, "waiting_for": ["a dependency"]}))
        sample.create_file("ready")
        assert sample.get("/readyz") == (200, json.dumps({"ready": True, "waiting_for": []}))
        assert sample.get("/livez") == (200, json.dumps({"alive": True}))
        sample.create_file("dead")
        assert sample.get("/livez")[0] == 503
        assert 'http_requests_total{code="200",method="GET",route="/"}' in sample.get("/metrics")[1]
        assert sample.get("/readyz", public=True)[0] == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_service_stops_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """Readiness goes false, the public listener answers while the service drains, and the exit code is 0."""
    with serving(tmp_path) as sample:
        sample.create_file("ready")
        await wait_until(lambda: sample.get("/readyz")[0] == 200)
        sample.process.send_signal(number)
        await wait_until(lambda: (tmp_path / "draining").exists())
        assert sample.get("/readyz") == (503, json.dumps({"ready": False, "waiting_for": ["draining"]}))
        assert sample.get("/livez")[0] == 200
        assert sample.get("/", public=True) == (200, "hello")
        sample.create_file("drained")
        await wait_until(lambda: sample.process.poll() is not None)
        assert sample.process.returncode == 0
        assert (tmp_path / "closed").exists()


@pytest.mark.parametrize(("mode", "error"), [("crash", "the task has crashed"), ("end", "has ended")])
async def test_a_task_that_crashes_or_ends_stops_the_service(tmp_path: Path, mode: str, error: str) -> None:
    """The service exits with code 1 and logs the error."""
    with serving(tmp_path, mode) as sample:
        await wait_until(lambda: sample.get("/livez")[0] == 200)
        sample.create_file("crash")
        await wait_until(lambda: sample.process.poll() is not None)
        assert sample.process.returncode == 1
        assert sample.process.stderr is not None
        assert error in sample.process.stderr.read()


async def test_a_crash_by_a_base_exception_shows_no_text(tmp_path: Path) -> None:
    """Such an exception is usually a job's, and its text may contain the payload: only type and place are logged."""
    with serving(tmp_path, "BaseException") as sample:
        await wait_until(lambda: sample.get("/livez")[0] == 200)
        sample.create_file("crash")
        await wait_until(lambda: sample.process.poll() is not None)
        assert sample.process.returncode == 1
        assert sample.process.stderr is not None
        output = sample.process.stderr.read()
        assert "a-payload" not in output
        assert "service_crashed" in output
        assert "BaseException" in output


@pytest.mark.parametrize("mode", ["KeyboardInterrupt", "SystemExit"])
async def test_a_stray_task_does_not_end_the_service(tmp_path: Path, mode: str) -> None:
    """The service serves on and stops in order; only the type of the exception is logged."""
    with serving(tmp_path, mode) as sample:
        sample.create_file("ready")
        sample.create_file("drained")
        await wait_until(lambda: (tmp_path / "raised").exists())
        await wait_until(lambda: sample.get("/readyz")[0] == 200)
        sample.process.send_signal(signal.SIGTERM)
        await wait_until(lambda: sample.process.poll() is not None)
        assert sample.process.returncode == 0
        assert sample.process.stderr is not None
        output = sample.process.stderr.read()
        assert mode in output
        assert "a-payload" not in output


async def test_a_task_whose_awaited_future_is_cancelled_does_not_end_unnoticed() -> None:
    """Its CancelledError is not that of the service, which cancels the task itself when it stops."""

    async def awaits_cancelled_future() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(RuntimeError, match="has ended"):
        await run_forever(awaits_cancelled_future)
    task = asyncio.create_task(run_forever(asyncio.Event().wait))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_service_keeps_its_signals(tmp_path: Path) -> None:
    """Code in the event loop cannot handle signals, and what it changes by other ways is restored."""
    with serving(tmp_path, "signals") as sample:
        for name in ("drained", "ready"):
            sample.create_file(name)
        await wait_until(lambda: sample.get("/readyz")[0] == 200)
        sample.create_file("started")
        await wait_until(lambda: (tmp_path / "raised").exists() or sample.process.poll() is not None)
        sample.process.send_signal(signal.SIGTERM)
        await wait_until(lambda: sample.process.poll() is not None)
        assert sample.process.stderr is not None
        assert sample.process.returncode == 0, sample.process.stderr.read()
        assert (tmp_path / "draining").exists()
        assert len([*tmp_path.glob("refused-*")]) == 3


async def test_a_service_exits_although_the_exit_code_of_a_child_is_taken(tmp_path: Path) -> None:
    """The event loop waits for a child that code of a job has waited for; the service exits with code 0."""
    with serving(tmp_path, "exit code") as sample:
        sample.create_file("drained")
        await wait_until(lambda: (tmp_path / "raised").exists() and sample.get("/livez")[0] == 200)
        sample.process.send_signal(signal.SIGTERM)
        await wait_until(lambda: sample.process.poll() is not None)
        assert sample.process.returncode == 0


@pytest.mark.parametrize("setting", ["SAMPLE_PORT", "SAMPLE_INTERNAL_PORT"])
def test_a_port_in_use_is_named_and_exits_with_code_2(tmp_path: Path, setting: str) -> None:
    """If another program listens on a port, the service prints one line with the setting, and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, free = server.getsockname()[1], str(free_ports(1)[0])
        env = {"PATH": os.environ["PATH"], "BIND_HOST": "127.0.0.1", "PORT": free, "INTERNAL_PORT": "0"}
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), "good"]
        completed = subprocess.run(
            command,
            cwd=ROOT,
            env={**env, setting: str(port)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    problem = f"port {port} is in use: stop the program that listens on it, or set {setting}"
    assert (completed.returncode, completed.stderr) == (2, f"sample: invalid settings:\n  {problem}\n")


@pytest.mark.parametrize("host", ["203.0.113.1", "no.such.host.invalid", f"{'x' * 64}.example"])
def test_an_address_of_another_machine_exits_with_code_2(tmp_path: Path, host: str) -> None:
    """A host that the service cannot listen on is a problem of the settings."""
    env = {"PATH": os.environ["PATH"], "BIND_HOST": host, "PORT": "0", "INTERNAL_PORT": "0"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), "good"]
    completed = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert completed.returncode == 2
    assert f"BIND_HOST and SAMPLE_INTERNAL_PORT: cannot listen on {host!r}" in completed.stderr
    assert "Traceback" not in completed.stderr


@pytest.mark.parametrize("service", ["submitter", "worker", "notifier"])
def test_invalid_settings_are_printed_and_exit_with_code_2(service: str) -> None:
    """A service without settings lists every missing one, without a traceback."""
    completed = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert completed.returncode == 2
    assert completed.stderr.startswith(f"{service}: invalid settings:\n")
    assert len(completed.stderr.splitlines()) >= 4
    assert "Traceback" not in completed.stderr
