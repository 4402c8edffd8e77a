"""The metadata of the package: one version everywhere, and dependencies that match the code."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from headway import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
# The code that each extra is for; the package itself must work without an extra.
OTEL = ["headway/client/current_trace.py", "services/runtime/current_trace.py", "services/runtime/tracer.py"]
CODE = {
    "otel": OTEL,
    "client": ["headway/client"],
    "cli": ["headway/cli", "headway/client", "headway/azure"],
    "submitter": ["services/submitter", "services/runtime", "headway/azure"],
    "worker": ["services/worker", "services/runtime", "headway/azure"],
    "notifier": ["services/notifier", "services/runtime"],
}
OWN_PACKAGES = {"headway", "services"}
DISTRIBUTIONS = {  # of the modules that have another name
    "azure.core": "azure-storage-queue",
    "azure.identity": "azure-identity",
    "azure.storage": "azure-storage-queue",
    "opentelemetry.context": "opentelemetry-api",
    "opentelemetry.exporter": "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry.trace": "opentelemetry-api",
    "opentelemetry.util": "opentelemetry-api",
    "jwt": "pyjwt",
    "prometheus_client": "prometheus-client",
}


def distribution(requirement: str) -> str:
    """Return the normalized name of the distribution that a requirement names."""
    return requirement.partition(">")[0].lower()


def modules(names: list[str]) -> set[Path]:
    """Return the modules with these names, and those in the folders with these names."""
    paths = [ROOT / name for name in names]
    return {path for one in paths for path in (one.rglob("*.py") if one.is_dir() else [one])}


def imported_distributions(paths: Iterable[Path]) -> set[str]:
    """Return the distributions that modules import, wherever in the module."""
    names = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    modules = {module_of(name) for name in names}
    return {DISTRIBUTIONS.get(module, module) for module in modules - sys.stdlib_module_names - OWN_PACKAGES}


def module_of(name: str) -> str:
    """Return the first part of a dotted name; of a part that several distributions share, the first two parts."""
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] in ("azure", "opentelemetry") else 1])


def test_version_is_the_same_everywhere() -> None:
    """The npm package and the descriptions of the APIs have the version of the library, which pyproject.toml reads."""
    descriptions = [yaml.safe_load(path.read_text()) for path in ROOT.glob("services/*/openapi.yaml")]
    assert [description["info"]["version"] for description in descriptions] == [__version__, __version__]
    assert json.loads((ROOT / "clients/browser/package.json").read_text())["version"] == __version__
    assert PROJECT["dynamic"] == ["version"]


def test_requirements_have_one_range_with_an_upper_bound() -> None:
    """Each package has the same range in all extras."""
    requirements = {*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)}
    assert [one for one in requirements if not re.fullmatch(r"[\w-]+>=[\d.]+,<[\d.]+", one)] == []
    assert len(requirements) == len({distribution(one) for one in requirements})


@pytest.mark.parametrize("extra", CODE)
def test_extra_names_every_imported_package(extra: str) -> None:
    """The code of an extra imports only packages that the extra or the package itself requires."""
    paths = modules(CODE[extra]) - (set() if extra == "otel" else modules(OTEL))
    declared = {distribution(one) for one in (*PROJECT["dependencies"], *EXTRAS[extra])}
    if extra == "otel":  # comes in addition to that of a service
        declared |= {distribution(one) for one in EXTRAS["worker"]}
    assert imported_distributions(paths) - declared == set()


def test_the_image_has_the_packages_of_services_and_of_traces() -> None:
    """The lock from which the image is built has each of them; one that is needed for the command line alone is not."""
    locked = set(re.findall(r"^([\w-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    needed = {distribution(one) for extra in ("submitter", "worker", "notifier", "otel") for one in EXTRAS[extra]}
    assert needed <= locked
    assert "rich" not in locked


def test_package_without_extras_is_enough_for_jobs() -> None:
    """The modules for authors of jobs import only what the package requires."""
    paths = list((ROOT / "headway").glob("*.py"))
    assert imported_distributions(paths) == {distribution(one) for one in PROJECT["dependencies"]}


def test_every_extra_is_checked() -> None:
    """The list of code above has all extras."""
    assert CODE.keys() == EXTRAS.keys()
