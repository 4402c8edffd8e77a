"""The command of CI runs every test, and says which ones it has left out."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from dev.environment import ROOT

PYTEST = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = (ROOT / ".ci/run").read_text()


def recipe(target: str) -> str:
    """Return the commands of a target of the Makefile."""
    (commands,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    return str(commands)


def files_with(marker: str) -> set[Path]:
    """Return the test files that use a marker."""
    files = (*ROOT.glob("tests/**/*.py"), *ROOT.glob("examples/**/*.py"))
    return {file for file in files if marker in re.findall(r"\bmark\.(\w+)", file.read_text())}


def test_every_test_is_run() -> None:
    """CI runs `make test`, which leaves out tests/deploy only, and the two targets that run this folder."""
    targets = set(re.findall(r"^ *make ([\w-]+)", COMMANDS, re.MULTILINE))
    assert {"check", "test", "test-manifests", "test-containers"} <= targets
    assert re.findall(r"--ignore=(\S+)", recipe("test")) == ["tests/deploy"]
    assert (
        re.findall(r"not (\w+)", recipe("test").replace('$(if $(filter none,$(BROWSER)),-m "not browser")', "")) == []
    )
    assert '-m pytest tests/deploy -m "not containers"' in recipe("test-manifests")
    assert "-m pytest -m containers" in recipe("test-containers")
    markers = ("checkov", "containers", "matrix", "prometheus", "release")
    assert {file.parent for marker in markers for file in files_with(marker)} == {ROOT / "tests/deploy"}


def test_skipped_tests_are_announced() -> None:
    """Pytest lists each skipped test with its reason, and CI says so if it skips the containers."""
    assert "-ra" in PYTEST["addopts"].split()
    assert re.search(r"^ +echo .*skipping make test-containers", COMMANDS, re.MULTILINE)
