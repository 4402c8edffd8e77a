"""Shared fixtures: Valkey and Azurite, started once per session on free ports, and a clean environment."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from dev.environment import programs, service_environment, state_dir, wait_until_ready
from headway.tokens import make_keys
from tests.leaks import find_secrets, find_secrets_in_logs
from tests.waiting import PATIENCE_S, free_ports, wait_until

# No deadline: response times of the stores vary. print_blob shows how to reproduce a failing example.
hypothesis.settings.register_profile("headway", deadline=None, print_blob=True)
hypothesis.settings.load_profile("headway")

NO_EXPIRY = -1  # the reply of PTTL; -2 for a key that has just expired
# Those of twenty seconds and more, the longest first.
SLOWEST_MODULES = (
    "test_get_started",
    "test_tabs",
    "test_openapi",
    "test_wakeups",
    "test_fallback",
    "test_cli",
    "test_compatibility",
    "test_add_to_your_app",
    "test_client",
    "test_show_progress_doc",
    "test_dashboard_tasks",
    "test_dashboard_list",
    "test_dashboard_log",
    "test_dashboard_actions",
    "test_dashboard_session",
    "test_fleet_views",
    "test_job_view",
    "test_command_line_doc",
    "test_signalr_pages",
    "test_worker_failures",
    "test_silence",
    "test_thumbnails",
    "test_chaos",
    "test_job_page",
    "test_home_page",
    "test_replicas",
    "test_azurite_faults",
    "test_every_job",
    "test_bulk",
    "test_follow_ups",
    "test_http_api_doc",
    "test_write_jobs_doc",
    "test_topologies",
    "test_survival",
)
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH")


@pytest.fixture(autouse=True, scope="session")
def _clean_environment() -> Iterator[None]:
    """Remove the developer's settings from the environment; handle Ctrl-C, which a shell's background jobs ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = dict(os.environ)
    for name in set(os.environ) - set(KEPT_VARIABLES):
        if not name.startswith(("PYTEST", "SSL", "COV", "CI", "DOCKER")):
            del os.environ[name]
    # aiohttp reads the certificates of all authorities twice when it is imported: a tenth of the start of a process.
    os.environ["SSL_CERT_FILE"] = os.devnull
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Begin with other modules in each process of a parallel run, so that not all of them compile the same ones."""
    report = yield
    worker = getattr(collector.config, "workerinput", None)
    if worker and isinstance(collector, pytest.Directory):
        start = len(report.result) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
        report.result = [*report.result[start:], *report.result[:start]]
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Put the slowest modules first and unit tests last, so that a parallel run does not end with a slow one alone."""
    items.sort(key=lambda item: item.path)  # in all processes, before plugins shuffle them
    yield
    ranks = {name: rank for rank, name in enumerate(SLOWEST_MODULES)}
    unit_tests = Path(__file__).parent / "unit"

    def rank(item: pytest.Item) -> int:
        return len(ranks) + 1 if item.path.is_relative_to(unit_tests) else ranks.get(item.path.stem, len(ranks))

    items.sort(key=rank)


PRINTED_SECRETS: list[str] = []  # secrets found in the captured output of tests


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Search the captured output of a test and its processes for secrets."""
    PRINTED_SECRETS.extend(f"{report.nodeid}: {leak}" for _, text in report.sections for leak in find_secrets(text))


@pytest.fixture(autouse=True, scope="session")
def _no_secrets_in_logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Search all logs for tokens, keys and payloads at the end of the run."""
    yield
    assert find_secrets_in_logs(tmp_path_factory.getbasetemp()) + PRINTED_SECRETS == []


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run Valkey and Azurite; yield the environment in which services find them."""
    home = tmp_path_factory.mktemp("stores")
    valkey_port, azurite_port = map(str, free_ports(2))
    settings = {"HEADWAY_DIR": str(home), "VALKEY_PORT": valkey_port, "AZURITE_PORT": azurite_port}
    env = service_environment(state_dir(settings), settings)
    for name in ("valkey", "azurite"):
        (home / name).mkdir()
    store_programs = programs(env, home)[0]
    processes = [
        subprocess.Popen(program.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for program in store_programs
    ]
    asyncio.run(wait_until_ready(store_programs))
    yield env
    for process in processes:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture
async def redis(stores: dict[str, str]) -> AsyncIterator[Redis]:
    """Yield a client of the emptied Valkey; after the test, every key must have an expiry."""
    async with Redis.from_url(stores["REDIS_URL"]) as client:
        await wait_until(lambda: _is_up(client))
        await client.flushall()
        yield client
        async for key in client.scan_iter("*"):
            assert await client.pttl(key) != NO_EXPIRY, f"{key!r} has no expiry"


async def _is_up(client: Redis) -> bool:
    try:
        return bool(await client.ping())
    except ConnectionError:
        return False


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Return a folder with new keys."""
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"
