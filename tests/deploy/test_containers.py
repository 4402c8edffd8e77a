"""The image and the system in containers: replicas come, go and die, and nobody who watches loses anything."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.deploy.containers import BASE, VERSION, System, all_saw, by_second, docker, running, watching
from tests.deploy.manifests import COMPOSE
from tests.waiting import wait_until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

OURS = ("submitter", "notifier", "worker")
DRAIN_S = COMPOSE["notifier"]["environment"]["DRAIN_S"]
GRACE_S = 30
MEGABYTE = 1_000_000

# Names what was not compiled when the image was made, and what whoever runs in it could change.
LOOK = """
import importlib, os, sys
for service in ("submitter", "notifier", "worker"):
    importlib.import_module(f"services.{service}.app")
for module in list(sys.modules.values()):
    file, compiled = getattr(module, "__file__", None) or "", getattr(module, "__cached__", None) or ""
    frozen = module.__spec__ is None or module.__spec__.origin == "frozen"
    if file.endswith(".py") and not frozen and (not os.path.exists(compiled) or os.stat(file).st_uid != 0):
        print(file)
"""


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Run three notifiers and two workers."""
    async with running(tmp_path_factory.mktemp("containers")) as system:
        yield system


@pytest.fixture(autouse=True)
def _whole(system: System) -> None:
    """Begin with all that there should be."""
    system.up()


async def test_a_job_is_watched_through_all_replicas(system: System) -> None:
    """Thirty watchers come by the proxy, each replica has some of them, and all see the end."""
    receipt = await system.submit(steps=40, delay_s=0.1)
    async with watching(system, receipt["token"], 30) as watchers:
        shares = [system.connections(replica) for replica in system.replicas("notifier")]
        assert len(shares) == 3
        assert min(shares) >= 1
        assert sum(shares) == 30
        await wait_until(lambda: all_saw(watchers, "succeeded"))
        assert all("running" in watcher.statuses for watcher in watchers)


@pytest.mark.parametrize("act", ["restart all notifiers", "kill a notifier", "kill the job's worker"])
async def test_nothing_is_lost(system: System, act: str) -> None:
    """The job runs to its end, which all who watch see, though versions never went back for any of them."""
    receipt = await system.submit(steps=40, delay_s=0.25)
    async with watching(system, receipt["token"], 30) as watchers:
        await wait_until(lambda: all_saw(watchers, "running"))
        if act == "restart all notifiers":
            system.compose("restart", "notifier")
        elif act == "kill a notifier":
            docker("kill", "--signal=KILL", system.replicas("notifier")[0])
        else:
            docker("kill", "--signal=KILL", next(one for one in system.replicas("worker") if running_jobs(system, one)))
        await wait_until(lambda: all_saw(watchers, "succeeded"), 120)


def running_jobs(system: System, worker: str) -> bool:
    """Tell whether a worker runs a job."""
    return "\nworker_jobs_in_progress 1.0\n" in system.metrics(worker)


async def test_a_replica_leaves_evenly(system: System) -> None:
    """Its 300 watchers are told to come back, no second of the drain more than twice the mean, and find the others."""
    receipt = await system.submit(steps=1000, delay_s=0.1)
    async with watching(system, receipt["token"], 900) as watchers:
        replica, *others = system.replicas("notifier")
        leaving = system.connections(replica)
        assert leaving >= 290  # the proxy shares them out evenly
        docker("kill", "--signal=TERM", replica)
        await wait_until(lambda: docker("inspect", "--format={{.State.Status}}", replica).strip() == "exited", GRACE_S)
        assert docker("inspect", "--format={{.State.ExitCode}}", replica).strip() == "0"
        closings = [closing for watcher in watchers for closing in watcher.closings]
        assert [code for _, code in closings] == [1012] * leaving
        seconds = by_second([moment for moment, _ in closings])
        assert max(seconds.values()) <= 2 * leaving / DRAIN_S
        await wait_until(lambda: all(watcher.connected for watcher in watchers))
        assert sum(system.connections(other) for other in others) == 900
        seen = max(watcher.versions[-1] for watcher in watchers)
        await wait_until(lambda: all(watcher.versions[-1] >= seen for watcher in watchers))
        await cancel(system, receipt)
        await wait_until(lambda: all_saw(watchers, "cancelled"))


async def cancel(system: System, receipt: dict[str, str]) -> None:
    """Cancel a job through the proxy."""
    headers = {"Authorization": f"Bearer {receipt['token']}"}
    async with system.session.post(f"{system.url}/live/jobs/{receipt['id']}/cancel", headers=headers) as response:
        assert response.status == 202


def test_containers_have_no_rights(system: System) -> None:
    """They run as nobody on a root that cannot be written."""
    for service in OURS:
        for container in system.replicas(service):
            told = json.loads(docker("inspect", container))[0]
            assert told["HostConfig"]["ReadonlyRootfs"] is True
            assert told["HostConfig"]["CapDrop"] == ["ALL"]
            assert docker("exec", container, "id", "-u").strip() == "65532"
            tried = "import pathlib\ntry: pathlib.Path('x').touch()\nexcept OSError as error: print(error.strerror)"
            assert docker("exec", container, "python", "-c", tried).strip() == "Read-only file system"


def test_each_service_has_its_own_keys(system: System) -> None:
    """The notifier cannot sign a token, the worker neither sign nor read one."""
    for service, keys in {
        "submitter": {"token.pem"},
        "notifier": {"token.pub.pem", "report.key"},
        "worker": {"report.key"},
    }.items():
        assert set(docker("exec", system.replicas(service)[0], "ls", "/etc/headway").split()) == keys


def test_the_image_is_small_and_compiled() -> None:
    """Beyond its base; code belongs to root, and nothing has to be compiled again."""
    ours, base = (int(docker("image", "inspect", "--format={{.Size}}", name)) for name in (f"headway:{VERSION}", BASE))
    assert ours - base < 250 * MEGABYTE
    assert docker("run", "--rm", "--read-only", f"headway:{VERSION}", "python", "-c", LOOK) == ""


def test_metrics_are_as_prometheus_wants_them(system: System) -> None:
    """`promtool check metrics` has nothing to say of any service."""
    (prometheus,) = system.replicas("prometheus")
    for service in OURS:
        text = system.metrics(system.replicas(service)[0])
        assert docker("exec", "--interactive", prometheus, "promtool", "check", "metrics", text=text) == ""


async def test_prometheus_finds_every_replica(system: System) -> None:
    """All are targets, and all are up."""

    async def up() -> bool:
        async with system.session.get(f"{system.prometheus}/api/v1/targets") as response:
            targets = (await response.json())["data"]["activeTargets"]
        return sorted(one["labels"]["service"] for one in targets if one["health"] == "up") == sorted(
            ["submitter", *["notifier"] * 3, *["worker"] * 2]
        )

    await wait_until(up, 60)


async def test_a_team_adds_its_jobs(system: System) -> None:
    """The example's image runs a job that needs a package of its own."""
    docker(
        "build",
        "--network=host",
        "--quiet",
        f"--build-arg=HEADWAY_IMAGE=headway:{VERSION}",
        f"--tag=own-jobs:{VERSION}",
        "examples/own-jobs",
    )
    own = System(
        system.url,
        system.prometheus,
        (*system.files, "--file=examples/own-jobs/compose.yaml"),
        system.environment,
        system.session,
    )
    own.up("--no-build")
    receipt = await own.submit("measure", sizes=[1000, 2_500_000])
    async with watching(own, receipt["token"], 1) as watchers:
        await wait_until(lambda: all_saw(watchers, "succeeded"))
    async with own.session.get(
        f"{own.url}/live/jobs/{receipt['id']}", headers={"Authorization": f"Bearer {receipt['token']}"}
    ) as response:
        assert (await response.json())["result"] == ["1.0 kB", "2.5 MB"]
