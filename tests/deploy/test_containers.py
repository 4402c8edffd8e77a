"""The image, and the system in containers: watchers lose no update when replicas stop, start or crash."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tests.deploy.containers import (
    BASE_IMAGE,
    IMAGE_VERSION,
    System,
    all_have_status,
    count_per_second,
    docker,
    run_system,
    watching,
)
from tests.deploy.manifests import COMPOSE
from tests.deploy.queries import RULES
from tests.waiting import wait_until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

SERVICES = ("submitter", "notifier", "worker")
DRAIN_S = COMPOSE["notifier"]["environment"]["DRAIN_S"]
GRACE_S = 30
MEGABYTE = 1_000_000

# Python code that prints the modules that are not compiled, or that do not belong to root.
PRINT_UNCOMPILED_MODULES = """
import importlib, os, sys
for service in ("submitter", "notifier", "worker"):
    importlib.import_module(f"headway.services.{service}.app")
for module in list(sys.modules.values()):
    file, compiled = getattr(module, "__file__", None) or "", getattr(module, "__cached__", None) or ""
    frozen = module.__spec__ is None or module.__spec__.origin == "frozen"
    if file.endswith(".py") and not frozen and (not os.path.exists(compiled) or os.stat(file).st_uid != 0):
        print(file)
"""


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Run three notifiers and two workers."""
    async with run_system(tmp_path_factory.mktemp("containers")) as system:
        yield system


@pytest.fixture(autouse=True)
async def _all_containers_run(system: System) -> None:
    """Start the containers that the previous test stopped."""
    await system.up()


async def test_job_is_watched_through_all_replicas(system: System) -> None:
    """The proxy spreads thirty watchers over the notifiers, and all receive the outcome."""
    receipt = await system.submit(steps=40, delay_s=0.1)
    async with watching(system, receipt["token"], 30) as watchers:
        counts = [system.websocket_count(replica) for replica in system.replicas("notifier")]
        assert len(counts) == 3
        assert min(counts) >= 1
        assert sum(counts) == 30
        await wait_until(lambda: all_have_status(watchers, "succeeded"))
        assert all("running" in watcher.statuses for watcher in watchers)


@pytest.mark.parametrize("failure", ["restart all notifiers", "kill a notifier", "kill the job's worker"])
async def test_watchers_receive_the_outcome_after_a_failure(system: System, failure: str) -> None:
    """The job succeeds, all watchers receive the outcome, and versions never go back."""
    receipt = await system.submit(steps=40, delay_s=0.25)
    async with watching(system, receipt["token"], 30) as watchers:
        await wait_until(lambda: all_have_status(watchers, "running"))
        if failure == "restart all notifiers":
            system.compose("restart", "notifier")
        elif failure == "kill a notifier":
            docker("kill", "--signal=KILL", system.replicas("notifier")[0])
        else:
            worker = next(replica for replica in system.replicas("worker") if runs_a_job(system, replica))
            docker("kill", "--signal=KILL", worker)
        await wait_until(lambda: all_have_status(watchers, "succeeded"))


def runs_a_job(system: System, worker: str) -> bool:
    """Return whether a worker runs exactly one job."""
    return "\nworker_jobs_in_progress 1.0\n" in system.metrics(worker)


async def test_stopped_notifier_closes_its_connections_evenly(system: System) -> None:
    """300 watchers get code 1012 spread over the drain, at most twice the mean per second, and reconnect elsewhere."""
    receipt = await system.submit(steps=1000, delay_s=0.1)
    async with watching(system, receipt["token"], 900) as watchers:
        replica, *others = system.replicas("notifier")
        closed_count = system.websocket_count(replica)
        assert closed_count >= 290  # the proxy balances the connections
        docker("kill", "--signal=TERM", replica)
        exit_code = await asyncio.to_thread(docker, "wait", replica, timeout_s=GRACE_S)  # meanwhile the watchers read
        assert exit_code.strip() == "0"
        closes = [close for watcher in watchers for close in watcher.closes]
        assert [code for _, code in closes] == [1012] * closed_count
        per_second = count_per_second([time_s for time_s, _ in closes])
        assert max(per_second.values()) <= 2 * closed_count / DRAIN_S
        await wait_until(lambda: all(watcher.connected for watcher in watchers))
        assert sum(system.websocket_count(other) for other in others) == 900
        newest = max(watcher.versions[-1] for watcher in watchers)
        await wait_until(lambda: all(watcher.versions[-1] >= newest for watcher in watchers))
        await cancel(system, receipt)
        await wait_until(lambda: all_have_status(watchers, "cancelled"))


async def cancel(system: System, receipt: dict[str, str]) -> None:
    """Cancel a job through the proxy."""
    headers = {"Authorization": f"Bearer {receipt['token']}"}
    async with system.session.post(f"{system.url}/live/jobs/{receipt['id']}/cancel", headers=headers) as response:
        assert response.status == 202


def test_containers_are_unprivileged(system: System) -> None:
    """They run as a user without privileges or capabilities, on a read-only root file system."""
    write_file = "import pathlib\ntry: pathlib.Path('x').touch()\nexcept OSError as error: print(error.strerror)"
    for service in SERVICES:
        for container in system.replicas(service):
            host_config = json.loads(docker("inspect", container))[0]["HostConfig"]
            assert host_config["ReadonlyRootfs"] is True
            assert host_config["CapDrop"] == ["ALL"]
            assert docker("exec", container, "id", "-u").strip() == "65532"
            assert docker("exec", container, "python", "-c", write_file).strip() == "Read-only file system"


def test_each_service_has_its_own_keys(system: System) -> None:
    """Only the submitter has the key that signs tokens, and only the notifier the one that verifies them."""
    for service, keys in {
        "submitter": {"token.pem", "report.key"},
        "notifier": {"token.pub.pem", "report.key"},
        "worker": {"report.key"},
    }.items():
        assert set(docker("exec", system.replicas(service)[0], "ls", "/etc/headway").split()) == keys


def test_image_is_small_and_compiled() -> None:
    """The image adds less than 250 MB to its base; all modules are compiled and belong to root."""
    image = f"headway:{IMAGE_VERSION}"
    size, base_size = (int(docker("image", "inspect", "--format={{.Size}}", name)) for name in (image, BASE_IMAGE))
    assert size - base_size < 250 * MEGABYTE
    assert docker("run", "--rm", "--read-only", image, "python", "-c", PRINT_UNCOMPILED_MODULES) == ""


def test_image_has_no_build_tools() -> None:
    """There is neither a compiler nor an installer for the services' packages, and no file that everyone may change."""
    find_tools = "for tool in cc gcc g++ ld make uv; do command -v $tool; done"
    find_files = "find /opt/headway -name pip -o -perm -o=w ! -type l"
    image = f"headway:{IMAGE_VERSION}"
    assert docker("run", "--rm", "--read-only", image, "sh", "-c", f"{find_tools}; {find_files}") == ""


def test_promtool_accepts_the_metrics(system: System) -> None:
    """`promtool check metrics` reports nothing for any service."""
    (prometheus,) = system.replicas("prometheus")
    for service in SERVICES:
        text = system.metrics(system.replicas(service)[0])
        assert docker("exec", "--interactive", prometheus, "promtool", "check", "metrics", text=text) == ""


async def test_prometheus_finds_every_replica(system: System) -> None:
    """Every replica and the proxy are targets of Prometheus, and all targets are up."""

    async def all_up() -> bool:
        async with system.session.get(f"{system.prometheus_url}/api/v1/targets") as response:
            targets = (await response.json())["data"]["activeTargets"]
        return sorted(target["labels"]["service"] for target in targets if target["health"] == "up") == sorted(
            ["edge", "submitter", *["notifier"] * 3, *["worker"] * 2]
        )

    await wait_until(all_up)


async def test_prometheus_evaluates_the_alerts(system: System) -> None:
    """The server of compose.yaml has loaded each rule, and can evaluate it with the series of all services."""
    names = {rule.get("alert") or rule["record"] for rule in RULES}

    async def all_evaluated() -> bool:
        async with system.session.get(f"{system.prometheus_url}/api/v1/rules") as response:
            groups = (await response.json())["data"]["groups"]
        return names == {rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "ok"}

    await wait_until(all_evaluated)


async def test_load_is_submitted_and_watched(system: System) -> None:
    """The profile `load` submits jobs through the proxy and watches them over one connection."""
    system.compose("up", "--detach", "--no-build", "load")
    try:
        await wait_until(lambda: sum(system.websocket_count(replica) for replica in system.replicas("notifier")) == 1)
        idle = "\nworker_jobs_in_progress 0.0\n"
        await wait_until(lambda: any(idle not in system.metrics(replica) for replica in system.replicas("worker")))
    finally:
        system.compose("rm", "--stop", "--force", "load")


async def test_image_with_additional_jobs(system: System) -> None:
    """The image of `examples/own-jobs` runs a job that needs an additional package."""
    docker(
        "build",
        "--network=host",
        "--quiet",
        f"--build-arg=HEADWAY_IMAGE=headway:{IMAGE_VERSION}",
        f"--tag=own-jobs:{IMAGE_VERSION}",
        "examples/own-jobs",
    )
    own = System(
        system.url,
        system.prometheus_url,
        (*system.compose_options, "--file=examples/own-jobs/compose.yaml"),
        system.environment,
        system.session,
    )
    await own.up("--no-build")
    receipt = await own.submit("measure", sizes=[1000, 2_500_000])
    async with watching(own, receipt["token"], 1) as watchers:
        await wait_until(lambda: all_have_status(watchers, "succeeded"))
    async with own.session.get(
        f"{own.url}/live/jobs/{receipt['id']}", headers={"Authorization": f"Bearer {receipt['token']}"}
    ) as response:
        assert (await response.json())["result"] == ["1.0 kB", "2.5 MB"]
