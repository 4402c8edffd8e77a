"""The npm package of the browser client, and its types."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import tomllib
import typing
from pathlib import Path

import msgspec
import pytest

from dev import node
from dev.environment import ROOT
from headway.contracts import JobError, JobSnapshot, JobStatus, ProgressSnapshot

CLIENT = ROOT / "clients" / "browser"
TYPES = (CLIENT / "headway.d.ts").read_text()

# As a server does that renders pages, where there is no document.
USE = """
import { HeadwayJob, watchJob } from "headway-live";
console.log(JSON.stringify([typeof watchJob, HeadwayJob.observedAttributes, typeof customElements]));
"""


@pytest.fixture(scope="module")
def found() -> node.Node:
    """Return the Node.js that there is."""
    found = node.find_node()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def installed(found: node.Node, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack the package and unpack it where an application would have it; return the application's folder."""
    folder = tmp_path_factory.mktemp("app")
    subprocess.run([*found.npm, "pack", "--silent", "--pack-destination", folder], cwd=CLIENT, check=True)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "node_modules", filter="data")
    (folder / "node_modules" / "package").rename(folder / "node_modules" / "headway-live")
    return folder


def test_package_has_what_it_imports_and_no_more(installed: Path) -> None:
    """Every module of the client is packed, with types and a readme, and nothing else."""
    names = {path.name for path in (installed / "node_modules" / "headway-live").iterdir()}
    modules = {path.name for path in CLIENT.glob("*.js")}
    assert names == modules | {"headway.d.ts", "package.json", "README.md"}
    for name in modules:
        for needed in re.findall(r'from "\./([^"]+)"', (CLIENT / name).read_text()):
            assert needed in modules, f"{name} imports {needed}"


def test_package_imports_where_there_is_no_document(found: node.Node, installed: Path) -> None:
    """A program of Node.js imports the package by its name; the element is there and does no harm."""
    (installed / "use.mjs").write_text(USE)
    told = subprocess.run([found.node, "use.mjs"], cwd=installed, capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == ["function", ["token", "url"], "undefined"]
    assert told.stderr == ""


def test_package_has_the_projects_version() -> None:
    """BrowserClient and services are released together, and the client depends on nothing."""
    package = json.loads((CLIENT / "package.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert package["version"] == project["version"]
    assert not {"dependencies", "peerDependencies", "devDependencies", "scripts"} & package.keys()
    assert f"headway-live-{package['version']}.tgz" in (CLIENT / "README.md").read_text()


def fields(name: str) -> dict[str, str]:
    """Return the fields of an interface in the types, with what they are."""
    (body,) = re.findall(rf"^export interface {name}\b.*?{{\n(.*?)^}}", TYPES, re.DOTALL | re.MULTILINE)
    return dict(re.findall(r"^  readonly (\w+): (.*);$", body, re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "contract"), [("Snapshot", JobSnapshot), ("Progress", ProgressSnapshot), ("JobError", JobError)]
)
def test_types_are_those_of_the_wire(name: str, contract: type[msgspec.Struct]) -> None:
    """The types name each field that watchers get, and say of the same ones that they may be null."""
    named = fields(name)
    wire = typing.get_type_hints(contract)
    assert list(named) == list(wire)
    optional = {field for field, kind in wire.items() if type(None) in typing.get_args(kind)} | (
        {"result"} & wire.keys()
    )
    assert {field for field, kind in named.items() if kind.endswith("| null")} == optional


def test_types_know_each_status() -> None:
    """The union of statuses is the contract's."""
    (union,) = re.findall(r"^export type JobStatus = (.*);$", TYPES, re.MULTILINE)
    assert re.findall(r'"(\w+)"', union) == list(typing.get_args(JobStatus))


def test_types_name_what_is_exported() -> None:
    """What the module exports has a type, and what has a value's type is exported."""
    exported = re.findall(r"export \{ (.*?) \}", (CLIENT / "headway.js").read_text())
    typed = re.findall(r"^export (?:class|function|const) (\w+)", TYPES, re.MULTILINE)
    assert sorted(typed) == sorted(", ".join(exported).split(", "))
    element = (CLIENT / "element.js").read_text()
    events = set(re.findall(r'#dispatch\("(headway-\w+)"', element))
    assert events == set(re.findall(r'^  "(headway-\w+)": CustomEvent', TYPES, re.MULTILINE))
