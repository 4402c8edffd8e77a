"""The npm package of the browser client, and its TypeScript types."""

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

# A program without a document, such as a server that renders pages.
PROGRAM = """
import { HeadwayJob, watchJob } from "headway-live";
console.log(JSON.stringify([typeof watchJob, HeadwayJob.observedAttributes, typeof customElements]));
"""


@pytest.fixture(scope="module")
def nodejs() -> node.Node:
    """Return the installation of Node.js."""
    nodejs = node.find_node()
    assert nodejs is not None
    return nodejs


@pytest.fixture(scope="module")
def app(nodejs: node.Node, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an application that has installed the package."""
    folder = tmp_path_factory.mktemp("app")
    subprocess.run([*nodejs.npm, "pack", "--silent", "--pack-destination", folder], cwd=CLIENT, check=True)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as package:
        package.extractall(folder / "node_modules", filter="data")
    (folder / "node_modules" / "package").rename(folder / "node_modules" / "headway-live")
    return folder


def test_package_contains_all_modules(app: Path) -> None:
    """The package contains the modules of the client, the types and a readme, and nothing else."""
    names = {path.name for path in (app / "node_modules" / "headway-live").iterdir()}
    modules = {path.name for path in CLIENT.glob("*.js")}
    assert names == modules | {"headway.d.ts", "package.json", "README.md"}
    for name in modules:
        for imported in re.findall(r'from "\./([^"]+)"', (CLIENT / name).read_text()):
            assert imported in modules, f"{name} imports {imported}"


def test_package_can_be_imported_without_a_document(nodejs: node.Node, app: Path) -> None:
    """A Node.js program imports the package by name; the element is exported but not registered."""
    (app / "program.mjs").write_text(PROGRAM)
    completed = subprocess.run([nodejs.node, "program.mjs"], cwd=app, capture_output=True, text=True, check=True)
    assert json.loads(completed.stdout) == ["function", ["token", "url"], "undefined"]
    assert completed.stderr == ""


def test_package_has_the_version_of_the_project() -> None:
    """Client and services are released together; the client has no dependencies and no scripts."""
    package = json.loads((CLIENT / "package.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert package["version"] == project["version"]
    assert not {"dependencies", "peerDependencies", "devDependencies", "scripts"} & package.keys()
    assert f"headway-live-{package['version']}.tgz" in (CLIENT / "README.md").read_text()


def fields(name: str) -> dict[str, str]:
    """Return the fields of an interface in the types, with the type of each."""
    (body,) = re.findall(rf"^export interface {name}\b.*?{{\n(.*?)^}}", TYPES, re.DOTALL | re.MULTILINE)
    return dict(re.findall(r"^  readonly (\w+): (.*);$", body, re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "contract"), [("Snapshot", JobSnapshot), ("Progress", ProgressSnapshot), ("JobError", JobError)]
)
def test_types_agree_with_the_contracts(name: str, contract: type[msgspec.Struct]) -> None:
    """The types have the fields of the contracts in the same order, and the same fields can be null."""
    typed = fields(name)
    annotations = typing.get_type_hints(contract)
    assert list(typed) == list(annotations)
    optional = {field for field, annotation in annotations.items() if type(None) in typing.get_args(annotation)}
    optional |= {"result"} & annotations.keys()
    assert {field for field, field_type in typed.items() if field_type.endswith("| null")} == optional


def test_types_contain_every_status() -> None:
    """The union `JobStatus` of the types has the statuses of the contract."""
    (union,) = re.findall(r"^export type JobStatus = (.*);$", TYPES, re.MULTILINE)
    assert re.findall(r'"(\w+)"', union) == list(typing.get_args(JobStatus))


def test_types_agree_with_the_exports() -> None:
    """The module exports exactly the values that have a type, and the element dispatches exactly the typed events."""
    exported = re.findall(r"export \{ (.*?) \}", (CLIENT / "headway.js").read_text())
    typed = re.findall(r"^export (?:class|function|const) (\w+)", TYPES, re.MULTILINE)
    assert sorted(typed) == sorted(", ".join(exported).split(", "))
    element = (CLIENT / "headway-job.js").read_text()
    events = set(re.findall(r'#dispatch\("(headway-\w+)"', element))
    assert events == set(re.findall(r'^  "(headway-\w+)": CustomEvent', TYPES, re.MULTILINE))
