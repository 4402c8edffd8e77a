"""The npm package of the browser client, and its TypeScript types."""

from __future__ import annotations

import json
import re
import tomllib
import typing
from pathlib import Path

import msgspec
import pytest

from dev.environment import ROOT
from headway import __version__
from headway.contracts import (
    OPTIONAL_SNAPSHOT_FIELDS,
    EarlierAttempt,
    JobError,
    JobSnapshot,
    JobStatus,
    ProgressSnapshot,
)
from tests.browser.npm import CLIENT, install_client, run_node

PACKAGE = json.loads((CLIENT / "package.json").read_text())
TYPES = "".join((CLIENT / f"{name}.d.ts").read_text() for name in ("watch", "element", "jobs-element"))
EXPORTS = {
    "headway-live": ["HeadwayJob", "HeadwayJobs", "watchJob", "watchJobs"],
    "headway-live/watch": ["watchJob"],
    "headway-live/watch-jobs": ["watchJobs"],
    "headway-live/element": ["HeadwayJob"],
    "headway-live/jobs": ["HeadwayJobs"],
}

# Print what each module exports, and what the imports have added to the global object: a server has no document.
PROGRAM = """
const before = Object.getOwnPropertyNames(globalThis);
const exported = {};
for (const name of process.argv.slice(2)) exported[name] = Object.keys(await import(name));
const added = Object.getOwnPropertyNames(globalThis).filter((name) => !before.includes(name));
console.log(JSON.stringify([exported, added]));
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an application that has installed the package, but not React."""
    folder = tmp_path_factory.mktemp("app")
    install_client(folder)
    return folder


def test_package_contains_all_modules(app: Path) -> None:
    """The package contains the modules of the client, their types, a license and a readme, and nothing else."""
    names = {path.name for path in (app / "node_modules" / "headway-live").iterdir()}
    modules = {path.name for path in CLIENT.glob("*.js")}
    types = {path.name for path in CLIENT.glob("*.d.ts")}
    assert names == modules | types | {"package.json", "README.md", "LICENSE"}
    for name in modules:
        for imported in re.findall(r'from "\./([^"]+)"', (CLIENT / name).read_text()):
            assert imported in modules, f"{name} imports {imported}"


def test_package_can_be_imported_without_a_document(app: Path) -> None:
    """A Node.js program imports each module that does not need React, without side effects."""
    (app / "program.mjs").write_text(PROGRAM)
    completed = run_node(app, "program.mjs", *EXPORTS)
    assert completed.stderr == ""
    assert json.loads(completed.stdout) == [EXPORTS, []]


def test_package_agrees_with_the_project() -> None:
    """Client and services are released together, under one license, from one repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert PACKAGE["version"] == __version__
    assert PACKAGE["license"] == project["license"]
    assert (CLIENT / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    urls = project["urls"]
    assert (PACKAGE["homepage"], PACKAGE["bugs"]) == (urls["Homepage"], urls["Issues"])
    assert PACKAGE["repository"]["url"] == f"git+{urls['Homepage']}.git"


def test_readme_names_the_archive() -> None:
    """The readme installs the archive that `npm pack` creates."""
    assert f"headway-live-{PACKAGE['version']}.tgz" in (CLIENT / "README.md").read_text()


def test_package_depends_on_nothing() -> None:
    """The client needs no other package and no build; React is optional."""
    assert not {"dependencies", "devDependencies", "scripts"} & PACKAGE.keys()
    assert {name for name, meta in PACKAGE["peerDependenciesMeta"].items() if meta["optional"]} == {"react"}
    assert PACKAGE["peerDependencies"].keys() == {"react"}


def test_package_declares_its_side_effects() -> None:
    """The modules that define the element when they are imported are declared, so that bundlers keep them."""
    defining = {path.name for path in CLIENT.glob("*.js") if re.search(r"^\w+\(", path.read_text(), re.MULTILINE)}
    assert defining == {"element.js", "jobs-element.js"}
    importing = {path.name for path in CLIENT.glob("*.js") if re.search(r'"\./(jobs-)?element\.js"', path.read_text())}
    assert {f"./{name}" for name in defining | importing} == set(PACKAGE["sideEffects"])


def fields(name: str) -> dict[str, str]:
    """Return the fields of an interface in the types, with the type of each; `?` marks those that may be absent."""
    (body,) = re.findall(rf"^export interface {name}\b.*?{{\n(.*?)^}}", TYPES, re.DOTALL | re.MULTILINE)
    return dict(re.findall(r"^  readonly (\w+\??): (.*);$", body, re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "contract"),
    [
        ("SnapshotFields", JobSnapshot),
        ("Progress", ProgressSnapshot),
        ("JobError", JobError),
        ("EarlierAttempt", EarlierAttempt),
    ],
)
def test_types_agree_with_the_contracts(name: str, contract: type[msgspec.Struct]) -> None:
    """The types have the fields of the contracts in the same order, and the same fields can be null, or absent."""
    typed = fields(name)
    typed.pop("exact?", None)  # added by the client
    annotations = typing.get_type_hints(contract)
    assert [field.removesuffix("?") for field in typed] == list(annotations)
    absent = {field.removesuffix("?") for field in typed if field.endswith("?")}
    assert absent == annotations.keys() & set(OPTIONAL_SNAPSHOT_FIELDS)
    optional = {field for field, annotation in annotations.items() if type(None) in typing.get_args(annotation)}
    optional |= {"result"} & annotations.keys()
    assert {field for field, field_type in typed.items() if field_type.endswith("| null")} == optional - absent


def test_types_contain_every_status() -> None:
    """The union `JobStatus` of the types has the statuses of the contract."""
    (union,) = re.findall(r"^export type JobStatus = (.*);$", TYPES, re.MULTILINE)
    assert re.findall(r'"(\w+)"', union) == list(typing.get_args(JobStatus))


def typed_exports(module: str) -> set[str]:
    """Return the values that the types of a module export, including those of the modules that it exports again."""
    types = (CLIENT / f"{module}.d.ts").read_text()
    values = set(re.findall(r"^export (?:class|function|const) (\w+)", types, re.MULTILINE))
    return values.union(*map(typed_exports, re.findall(r'^export \* from "\./([\w-]+)\.js"', types, re.MULTILINE)))


def test_types_agree_with_the_exports() -> None:
    """The types of each module export the same values as the module."""
    for name, exported in EXPORTS.items():
        target = PACKAGE["exports"][name.replace("headway-live", ".")]
        module = target["default"].removeprefix("./").removesuffix(".js")
        assert target["types"] == f"./{module}.d.ts"
        assert typed_exports(module) == set(exported)


def test_types_contain_every_event() -> None:
    """The elements dispatch exactly the events that have a type."""
    elements = "".join((CLIENT / f"{name}.js").read_text() for name in ("headway-job", "headway-jobs"))
    dispatched = re.findall(r'#dispatch\("(headway-\w+)"', elements)
    assert set(dispatched) == set(re.findall(r'^  "(headway-\w+)": CustomEvent', TYPES, re.MULTILINE))
