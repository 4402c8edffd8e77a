"""Fixtures: the real stores, each started once a session on a free port, and an environment that says nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from dev.environment import programs, service_environment, state_dir, wait_until_ready
from headway.tokens import make_keys
from tests.leaks import find_secrets, find_secrets_in_logs
from tests.waiting import free_ports, wait_until

# Stores answer when they answer; what a failing example needs to be found again is printed.
hypothesis.settings.register_profile("headway", deadline=None, print_blob=True)
hypothesis.settings.load_profile("headway")

SLOWEST_MODULES = {
    "test_fallback",
    "test_openapi",
    "test_client",
    "test_worker_failures",
    "test_wake",
    "test_cli",
    "test_job_page",
}
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH")


@pytest.fixture(autouse=True, scope="session")
def _clean_environment() -> Iterator[None]:
    """Hide the settings of whoever runs the tests, and hear Ctrl-C though a shell's background job is deaf to it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = dict(os.environ)
    for name in set(os.environ) - set(KEPT_VARIABLES):
        if not name.startswith(("PYTEST", "SSL", "COV", "CI", "DOCKER")):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.hookimpl(trylast=True)  # whatever else orders them comes before
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: a run with several files side by side ends with its last one."""
    items.sort(key=lambda item: item.path.stem not in SLOWEST_MODULES)


PRINTED_SECRETS: list[str] = []  # secrets in what the tests' processes print


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Look at what a test and its processes have printed."""
    PRINTED_SECRETS.extend(f"{report.nodeid}: {leak}" for _, text in report.sections for leak in find_secrets(text))


@pytest.fixture(autouse=True, scope="session")
def _no_secrets_in_logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Look, at the end of the run, for tokens, keys and payloads in every log that it has made."""
    yield
    assert find_secrets_in_logs(tmp_path_factory.getbasetemp()) + PRINTED_SECRETS == []


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run Valkey and Azurite; yield the environment that names them."""
    home = tmp_path_factory.mktemp("stores")
    valkey_port, azurite_port = map(str, free_ports(2))
    given = {"HEADWAY_DIR": str(home), "VALKEY_PORT": valkey_port, "AZURITE_PORT": azurite_port}
    env = service_environment(state_dir(given), given)
    for name in ("valkey", "azurite"):
        (home / name).mkdir()
    group = programs(env, home)[0]
    running = [
        subprocess.Popen(program.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for program in group
    ]
    asyncio.run(wait_until_ready(group))
    yield env
    for process in running:
        process.terminate()
        process.wait(10)


@pytest.fixture
async def redis(stores: dict[str, str]) -> AsyncIterator[Redis]:
    """Yield a client of an emptied Valkey; afterwards every key must have a time to live."""
    async with Redis.from_url(stores["REDIS_URL"]) as client:
        await wait_until(lambda: _is_up(client))
        await client.flushall()
        yield client
        async for key in client.scan_iter("*"):
            assert await client.pttl(key) > 0, f"{key!r} would stay for ever"


async def _is_up(client: Redis) -> bool:
    try:
        return bool(await client.ping())
    except ConnectionError:
        return False


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Make a folder of fresh keys."""
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"
