"""The commands of docs/upgrading.md agree with compose.yaml, the roll script and the manifests."""

from __future__ import annotations

import runpy

import pytest

from dev.environment import ROOT
from headway.contracts import SCHEMA_VERSION
from tests.deploy.manifests import COMPOSE, SERVICES, objects_of_kind, render
from tests.deploy.recorded_commands import of_program, run_commands
from tests.documents import Document

PAGE = Document("docs/upgrading.md")
ORDER = ["notifier", "worker", "submitter"]  # of an upgrade


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Return the recorded commands of the page."""
    return run_commands(PAGE, tmp_path_factory.mktemp("upgrading"))


def test_roll_replaces_the_services_in_the_order_of_an_upgrade() -> None:
    """It replaces every service that has the image, and only the public ones have a path at the proxy."""
    routes = runpy.run_path(str(ROOT / "deploy/compose/roll.py"))["ROUTES"]
    assert list(routes) == ORDER
    assert set(ORDER) == {name for name, settings in SERVICES.items() if COMPOSE[name]["image"] == "headway:dev"}
    assert [name for name, path in routes.items() if path is None] == ["worker"]


def test_rollback_names_the_services_in_reverse_order(commands: list[list[str]]) -> None:
    """The first `make roll` upgrades all services, the other one names them from the last to the first."""
    assert of_program(commands, "make", "roll") == [[], [f"ARGS={' '.join(reversed(ORDER))}"]]


def test_rollout_keeps_the_order() -> None:
    """The later Deployments are paused before the apply, and each is resumed when the one before it is complete."""
    deployments = objects_of_kind(render("overlays/production"), "Deployment")
    assert set(ORDER) == deployments.keys()
    lines = [line.split() for text in PAGE.examples("sh") for line in text.text.splitlines() if "rollout" in line]
    steps = [(words[words.index("rollout") + 1], *(name for name in words if name in ORDER)) for words in lines]
    first, *later = ORDER
    assert steps == [
        ("pause", *later),
        ("status", first),
        *((step, name) for name in later for step in ("resume", "status")),
    ]


def test_page_describes_the_schema_that_is_written() -> None:
    """The last row of the table is the number in `headway_build_info`."""
    assert int(PAGE.table("Compatibility")[-1][0]) == SCHEMA_VERSION
