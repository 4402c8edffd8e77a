"""The command of CI runs every test, and says which ones it has left out."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from dev.environment import ROOT

PYTEST = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = (ROOT / ".ci/run").read_text()
MARKERS = {marker.partition(":")[0] for marker in PYTEST["markers"]}


def left_out(target: str) -> set[str]:
    """Return the markers of the tests that a target of the Makefile leaves out by default."""
    (recipe,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    return set(re.findall(r"\bnot (\w+)", recipe.replace("$(if $(filter none,$(BROWSER)), and not browser)", "")))


def files_with(markers: set[str]) -> set[Path]:
    """Return the test files that use one of these markers."""
    files = (*ROOT.glob("tests/**/*.py"), *ROOT.glob("examples/**/*.py"))
    return {file for file in files if markers & set(re.findall(r"\bmark\.(\w+)", file.read_text()))}


def test_every_test_is_run() -> None:
    """Tests that `make test` leaves out are in tests/deploy, where the other two targets of CI run them."""
    targets = set(re.findall(r"^ *make ([\w-]+)", COMMANDS, re.MULTILINE))
    assert {"check", "test", "test-manifests", "test-containers"} <= targets
    assert left_out("test") <= MARKERS
    assert left_out("test-manifests") == {"containers"}
    assert re.search(r"pytest -m containers", MAKEFILE)
    assert {file.parent for file in files_with(left_out("test"))} == {ROOT / "tests/deploy"}


def test_skipped_tests_are_announced() -> None:
    """Pytest lists each skipped test with its reason, and CI says so if it skips the containers."""
    assert "-ra" in PYTEST["addopts"].split()
    assert re.search(r"^ +echo .*skipping make test-containers", COMMANDS, re.MULTILINE)
