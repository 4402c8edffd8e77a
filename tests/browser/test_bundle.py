"""The packed client in an application with Vite, TypeScript and React: its types, its builds and their size."""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.browser.embedding import EVENTS, code_blocks
from tests.browser.npm import PACKAGES, build, build_server, create_react_app, render, run_node

pytestmark = pytest.mark.browser

WATCH_JOB_MAX_BYTES = 8200  # compressed; the tab with the connection also carries the lists and logs of other tabs
WATCH_JOB = 'export { watchJob } from "headway-live/watch"'
# Modules, and whether their bundle contains the definition of the element.
DEFINES_ELEMENT = {
    'import "headway-live"': True,
    'import "headway-live/element"': True,
    'export { HeadwayJob } from "headway-live/react"': True,
    'export { useJob } from "headway-live/react"': False,
    'export { useJobs } from "headway-live/react"': False,
    'import "headway-live/watch"': False,
}
NARROWING = """import type { JobError, Snapshot } from "headway-live/watch";
export function outcome(job: Snapshot<{ link: string }>): string | JobError | null {
  if (job.status === "succeeded") return job.result.link + job.finished_at.length;
  if (job.status === "failed") return job.error;
  const unfinished: null = job.status === "cancelled" ? null : job.finished_at;
  return job.result ?? unfinished;
}
"""
WRONG_NARROWING = NARROWING.replace("return job.error", "return job.error.type").replace('"failed"', '"retrying"')
MISUSE = """import { HeadwayJob, useJob } from "headway-live/react";
export const Misuse = () => %s;
"""
# Expressions, and the error of each.
MISUSES = {
    '<HeadwayJob token="" url="" tokn="" />': "Property 'tokn' does not exist",
    '<HeadwayJob token={1} url="" />': "Type 'number' is not assignable to type 'string'",
    '<HeadwayJob token="" />': "Property 'url' is missing",
    '<HeadwayJob token="" url="" onEnd={(job) => job.details} />': "Property 'details' does not exist",
    'useJob("", { url: "" }).job?.details': "Property 'details' does not exist on type 'Snapshot<unknown>'",
    '<headway-job tokn="" />': "Property 'tokn' does not exist",
    **{f"<headway-job on{event}={{(event) => event.details}} />": "'details' does not exist" for event in EVENTS},
}
# The modules of the application that only the compiler reads; all but the first are wrong.
TYPED_MODULES = {
    "narrowing": NARROWING,
    "wrong-narrowing": WRONG_NARROWING,
    **{f"misuse-{number}": MISUSE % expression for number, expression in enumerate(MISUSES)},
}
COMPILER_ERROR = re.compile(r"^src/([\w-]+)\.tsx?\(.*\n(?: .*\n)*", re.MULTILINE)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the application with the examples of the document."""
    return create_react_app(tmp_path_factory.mktemp("bundle"), *code_blocks("tsx"))


def test_build_prints_no_warning(app: Path) -> None:
    """Vite builds the application for production without a warning."""
    assert build(app, "production") == ""


@pytest.fixture(scope="module")
def server_output(app: Path) -> str:
    """Build the part of the application that renders pages on a server; return what Vite prints."""
    return build_server(app)


@pytest.mark.parametrize("view", ["component", "tag"])
def test_server_renders_the_element(app: Path, server_output: str, view: str) -> None:
    """On a server, the element has its attributes and its label."""
    assert server_output == ""
    scene = {"view": view, "token": "a.b.c", "url": "https://live.example.org"}
    html = render(app, json.dumps(scene))
    assert html.startswith('<headway-job token="a.b.c" url="')
    assert html.endswith(">Export of March</headway-job>")


@pytest.fixture(scope="module")
def bundles(app: Path) -> dict[str, list[str]]:
    """Bundle modules of one statement for production, all in one process; return the code of each one's chunks."""
    statements = [WATCH_JOB, *DEFINES_ELEMENT]
    modules = [f"src/entry-{number}.ts" for number in range(len(statements))]
    for module, statement in zip(modules, statements, strict=True):
        (app / module).write_text(statement)
    bundled = run_node(app, "bundle.js", *modules)
    assert bundled.returncode == 0, bundled.stderr
    return dict(zip(statements, json.loads(bundled.stdout), strict=True))


def test_watch_job_is_small(bundles: dict[str, list[str]]) -> None:
    """`watchJob` alone, with all its transports and the connection that tabs share, stays within its budget."""
    chunks = bundles[WATCH_JOB]
    assert "/live/events" in "".join(chunks)
    assert "BroadcastChannel" in "".join(chunks)
    assert sum(len(gzip.compress(chunk.encode())) for chunk in chunks) <= WATCH_JOB_MAX_BYTES


@pytest.mark.parametrize(("statement", "defined"), list(DEFINES_ELEMENT.items()))
def test_bundle_contains_the_element_if_it_is_used(
    bundles: dict[str, list[str]], statement: str, defined: bool
) -> None:
    """A bundler keeps the definition of the element where it is used, and otherwise leaves the element out."""
    assert ("customElements.define(" in "".join(bundles[statement])) is defined


@pytest.fixture(scope="module")
def type_errors(app: Path) -> defaultdict[str, list[str]]:
    """Compile the application with `TYPED_MODULES` in one run of the strict compiler; return each module's errors."""
    for name, code in TYPED_MODULES.items():
        (app / "src" / f"{name}.tsx").write_text(code)
    compiled = run_node(app, PACKAGES / "typescript" / "bin" / "tsc")
    for name in TYPED_MODULES:
        (app / "src" / f"{name}.tsx").unlink()
    assert COMPILER_ERROR.sub("", compiled.stdout + compiled.stderr) == ""
    errors = defaultdict(list)
    for error in COMPILER_ERROR.finditer(compiled.stdout):
        errors[error[1]].append(error[0])
    return errors


def test_types_accept_the_application(type_errors: dict[str, list[str]]) -> None:
    """The strict compiler accepts the examples, and every use of the package in the application."""
    assert type_errors.keys() <= TYPED_MODULES.keys()


def test_types_narrow_the_outcome_by_the_status(type_errors: dict[str, list[str]]) -> None:
    """After a comparison of the status, result and end of a successful job and error of a failed one are not null."""
    assert type_errors["narrowing"] == []
    assert "'job.error' is possibly 'null'" in "".join(type_errors["wrong-narrowing"])


@pytest.mark.parametrize(("number", "expected"), list(enumerate(MISUSES.values())), ids=MISUSES)
def test_types_reject_misuse(type_errors: dict[str, list[str]], number: int, expected: str) -> None:
    """The compiler rejects unknown, missing and wrong properties, and unknown fields of snapshots and events."""
    (error,) = type_errors[f"misuse-{number}"]
    assert expected in error
