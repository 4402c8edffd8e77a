"""The wheel in the environment of an application that has its own package `services` and its own jobs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tarfile
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from dev.environment import PORTS, ROOT, service, service_environment
from headway import __version__
from headway.tokens import make_keys
from services.submitter.compact import compact
from tests.installed_wheel import build, install
from tests.integration.test_one_job import run_to_end
from tests.integration.test_reload import write
from tests.stack import Stack
from tests.waiting import PATIENCE_S, free_ports, wait_until

pytestmark = pytest.mark.timeout(900)  # for the installation on a busy machine

PACKAGED_FOLDERS = {
    "headway": "headway",
    "services": "headway/services",
    "clients/browser": "headway/services/submitter/browser",
}
# The options of each service, in the order of their start.
OPTIONS = {
    "notifier": (),
    "worker": ("--jobs", "services.worker.jobs,myapp", "--reload"),
    "submitter": (),
}
PRICES = "PRICES = {'book': 12}\n"
JOBS = '''
import os
import sys
import threading
from typing import Any

import headway
from headway import JobContext, job
from services.prices import PRICES


def result(item: str) -> dict[str, Any]:
    """Return the item's price, and where this code runs."""
    return {
        "price": PRICES[item],
        "process": os.getpid(),
        "in_main_thread": threading.current_thread() is threading.main_thread(),
        "first_folder": sys.path[0],
        "headway": headway.__file__,
        "services": sorted(name for name in sys.modules if name.partition(".")[0] == "services"),
    }


@job("loop")
async def loop(ctx: JobContext, item: str) -> dict[str, Any]:
    return result(item)


@job("thread")
def thread(ctx: JobContext, item: str) -> dict[str, Any]:
    return result(item)


@job("process", process=True)
def process(ctx: JobContext, item: str) -> dict[str, Any]:
    return result(item)
'''
ADDED_JOB = """
from headway import JobContext, job
from myapp.jobs import result

@job("added", process=True)
def added(ctx: JobContext, item: str) -> dict:
    return result(item)
"""


class Application(NamedTuple):
    """The folder of an application, and its virtual environment."""

    folder: Path
    environment: Path

    @property
    def headway(self) -> Path:
        """The `headway` command of the environment."""
        return self.environment / "bin/headway"


class Running(NamedTuple):
    """An application, and a system that runs in its environment."""

    application: Application
    stack: Stack


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the repository."""
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def application(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Application:
    """Write the application and install the wheel beside it."""
    folder = tmp_path_factory.mktemp("application")
    for package in ("services", "myapp"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("")
    (folder / "services/prices.py").write_text(PRICES)
    (folder / "myapp/jobs.py").write_text(JOBS)
    environment = tmp_path_factory.mktemp("environment")
    install(wheel, environment)
    return Application(folder, environment)


@asynccontextmanager
async def running_service(
    name: str, application: Application, env: Mapping[str, str], log: Path
) -> AsyncIterator[None]:
    """Run a service with the application's `headway` command until the block ends; its exit code must be 0."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            application.headway, name, *OPTIONS[name], cwd=application.folder, env=env, stderr=output
        )

    async def ready_or_ended() -> bool:
        return process.returncode is not None or await service(name, env).is_ready()

    try:
        await wait_until(ready_or_ended)
        assert process.returncode is None, log.read_text()
        yield
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0, log.read_text()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture(scope="module")
async def running(
    application: Application, stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    """Run the three services in the application's environment, without the repository on their import path."""
    folder = tmp_path_factory.mktemp("system")
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    store_ports = {name: stores[name] for name in ("VALKEY_PORT", "AZURITE_PORT")}
    settings = {"QUEUE_NAME": "wheel", "GRACE_S": "0", "DRAIN_S": "0"}
    env = service_environment(folder, ports | store_ports) | settings  # without the variables of this process
    make_keys(folder / "keys")
    (folder / "env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    async with AsyncExitStack() as services:
        for name in OPTIONS:
            await services.enter_async_context(running_service(name, application, env, folder / f"{name}.log"))
        async with aiohttp.ClientSession() as session:
            yield Running(application, Stack(folder, session))


def check_result(result: dict[str, Any], application: Application) -> None:
    """Check that a job ran with the application's package `services` and the installed Headway."""
    assert result["price"] == 12
    assert result["first_folder"] == str(application.folder)
    assert result["services"] == ["services", "services.prices"]
    assert Path(result["headway"]).is_relative_to(application.environment)


def test_wheel_from_the_sdist_is_identical(wheel: Path, tmp_path: Path) -> None:
    """The source distribution contains everything that the wheel is built from."""
    for folder in ("sdist", "wheel"):
        (tmp_path / folder).mkdir()
    with tarfile.open(build("sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    rebuilt = build("wheel", tmp_path / "wheel", source=tmp_path / f"headway-{__version__}")
    assert rebuilt.name == wheel.name
    assert rebuilt.read_bytes() == wheel.read_bytes()


def test_wheel_contains_one_package(wheel: Path) -> None:
    """Beside `headway`, which has the services and the browser client in it, there is only the metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"headway-{__version__}.dist-info/METADATA").decode()
    assert {name.partition("/")[0] for name in names} == {"headway", f"headway-{__version__}.dist-info"}
    files = {
        f"{packaged_folder}/{path.relative_to(ROOT / folder)}"
        for folder, packaged_folder in PACKAGED_FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", "node_modules"} & set(path.parts)
    }
    assert files <= names
    assert "\nLicense-Expression: MIT\n" in metadata
    assert f"headway-{__version__}.dist-info/licenses/LICENSE" in names


def test_editable_install_is_one_path(tmp_path: Path) -> None:
    """An editable install adds the repository to the import path, so `services` is the folder in the repository."""
    with zipfile.ZipFile(build("wheel:editable", tmp_path)) as archive:
        installed = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert installed == ["_headway.pth"]
        assert archive.read("_headway.pth").decode() == str(ROOT)


async def test_jobs_run_in_loop_thread_and_process(running: Running) -> None:
    """Jobs of all three kinds succeed, and import the application's package `services`."""
    ends = {kind: await run_to_end(running.stack, kind, "book") for kind in ("loop", "thread", "process")}
    assert {kind: end["status"] for kind, end in ends.items()} == dict.fromkeys(ends, "succeeded")
    loop, thread, process = (end["result"] for end in ends.values())
    for result in (loop, thread, process):
        check_result(result, running.application)
    assert (loop["in_main_thread"], thread["in_main_thread"]) == (True, False)
    assert loop["process"] == thread["process"] != process["process"]


async def test_built_in_job_runs(running: Running) -> None:
    """The built-in job `countdown` is there without being named."""
    end = await run_to_end(running.stack, "countdown", {"steps": 2, "delay_s": 0.01})
    assert end["result"] == "Counted 2 steps"


async def test_reloaded_worker_finds_the_application(running: Running) -> None:
    """After `exec`, the worker and its handler processes import from the application's folder as before."""
    log = running.stack.folder / "worker.log"
    starts = log.read_text().count("service_started")
    write(running.application.folder / "myapp/added.py", ADDED_JOB)
    await wait_until(lambda: log.read_text().count("service_started") > starts)
    end = await run_to_end(running.stack, "added", "book")
    assert end["status"] == "succeeded", end
    check_result(end["result"], running.application)


async def test_command_shows_a_job_on_a_terminal(running: Running) -> None:
    """`headway submit --watch` shows a bar and exits with 0."""
    env = {"HEADWAY_URL": running.stack.url, "TERM": "xterm", "COLUMNS": "160"}
    command = [str(running.application.headway), "submit", "loop", "--payload", '"book"', "--watch"]
    code, output = await asyncio.to_thread(run_on_terminal, command, running.application.folder, env)
    assert code == 0, output
    assert "✓" in output
    assert '"price":12' in output


def run_on_terminal(command: list[str], folder: Path, env: dict[str, str]) -> tuple[int, str]:
    """Run a command with a pseudo-terminal as its output; return its exit code and its output."""
    terminal, end_of_process = os.openpty()
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=end_of_process, stderr=end_of_process)
    os.close(end_of_process)
    output = b""
    with suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as stream:  # Linux reports the end as an error
        while part := stream.read(4096):
            output += part
    return process.wait(PATIENCE_S), output.decode()


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("/", "services/submitter/pages/index.html"),
        ("/jobs/b1f6a6a0-7b7e-4c7f-9d0a-3c1c5a0e6f11", "services/submitter/pages/job.html"),
        ("/assets/home.js", "services/submitter/pages/home.js"),
        ("/assets/headway.js", "clients/browser/headway.js"),
        ("/openapi.yaml", "services/submitter/openapi.yaml"),
    ],
)
async def test_files_are_served(running: Running, path: str, file: str) -> None:
    """The wheel contains the pages, the browser client and the description of the API; scripts have no comments."""
    source = (ROOT / file).read_bytes()
    expected = compact(source) if file.endswith(".js") else source
    async with running.stack.session.get(f"{running.stack.url}{path}") as response:
        assert (response.status, await response.read()) == (200, expected)


def test_command_prints_its_version(application: Application) -> None:
    """The installed command has the version of the wheel."""
    output = subprocess.run([str(application.headway), "--version"], check=True, capture_output=True, text=True).stdout
    assert output == f"headway {__version__}\n"
