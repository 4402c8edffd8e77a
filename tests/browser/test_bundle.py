"""The packed client in an application with Vite, TypeScript and React: its types, its builds and their size."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.browser.embedding import EVENTS, code_blocks
from tests.browser.npm import PACKAGES, build, build_server, create_react_app, render, run_node

pytestmark = pytest.mark.browser

WATCH_JOB_MAX_BYTES = 8200  # compressed; the tab with the connection also carries the lists and logs of other tabs


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the application with the examples of the document."""
    return create_react_app(tmp_path_factory.mktemp("bundle"), *code_blocks("tsx"))


def test_build_prints_no_warning(app: Path) -> None:
    """Vite builds the application for production without a warning."""
    assert build(app, "production") == ""


@pytest.mark.parametrize("view", ["component", "tag"])
def test_server_renders_the_element(app: Path, view: str) -> None:
    """On a server, the element has its attributes and its label."""
    assert build_server(app) == ""
    scene = {"view": view, "token": "a.b.c", "url": "https://live.example.org"}
    html = render(app, json.dumps(scene))
    assert html.startswith('<headway-job token="a.b.c" url="')
    assert html.endswith(">Export of March</headway-job>")


def bundled_sizes(app: Path, code: str) -> tuple[int, str]:
    """Return the compressed size of all chunks of a production build, and their code."""
    (app / "src" / "entry.ts").write_text(code)
    chunks: list[str] = json.loads(run_node(app, "bundle.js", "src/entry.ts").stdout)
    return sum(len(gzip.compress(chunk.encode())) for chunk in chunks), "".join(chunks)


def test_watch_job_is_small(app: Path) -> None:
    """`watchJob` alone, with all its transports and the connection that tabs share, stays within its budget."""
    size, code = bundled_sizes(app, 'export { watchJob } from "headway-live/watch";')
    assert "/live/events" in code
    assert "BroadcastChannel" in code
    assert size <= WATCH_JOB_MAX_BYTES


@pytest.mark.parametrize(
    ("statement", "defined"),
    [
        ('import "headway-live"', True),
        ('import "headway-live/element"', True),
        ('export { HeadwayJob } from "headway-live/react"', True),
        ('export { useJob } from "headway-live/react"', False),
        ('export { useJobs } from "headway-live/react"', False),
        ('import "headway-live/watch"', False),
    ],
)
def test_bundle_contains_the_element_if_it_is_used(app: Path, statement: str, defined: bool) -> None:
    """A bundler keeps the definition of the element where it is used, and otherwise leaves the element out."""
    assert ("customElements.define(" in bundled_sizes(app, statement)[1]) is defined


def compile_with(app: Path, code: str) -> str:
    """Return the output of the TypeScript compiler for the application with another module."""
    module = app / "src" / "Misuse.tsx"
    module.write_text(code)
    compiled = run_node(app, PACKAGES / "typescript" / "bin" / "tsc")
    module.unlink()
    return compiled.stdout + compiled.stderr


def test_types_accept_the_application(app: Path) -> None:
    """The strict compiler accepts the examples, and every use of the package in the application."""
    assert compile_with(app, "export {};") == ""


NARROWING = """import type { JobError, Snapshot } from "headway-live/watch";
export function outcome(job: Snapshot<{ link: string }>): string | JobError | null {
  if (job.status === "succeeded") return job.result.link + job.finished_at.length;
  if (job.status === "failed") return job.error;
  const unfinished: null = job.status === "cancelled" ? null : job.finished_at;
  return job.result ?? unfinished;
}
"""


def test_types_narrow_the_outcome_by_the_status(app: Path) -> None:
    """After a comparison of the status, result and end of a successful job and error of a failed one are not null."""
    assert compile_with(app, NARROWING) == ""
    assert "'job.error' is possibly 'null'" in compile_with(
        app, NARROWING.replace("return job.error", "return job.error.type").replace('"failed"', '"retrying"')
    )


MISUSE = """import { HeadwayJob, useJob } from "headway-live/react";
export const Misuse = () => %s;
"""


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ('<HeadwayJob token="" url="" tokn="" />', "Property 'tokn' does not exist"),
        ('<HeadwayJob token={1} url="" />', "Type 'number' is not assignable to type 'string'"),
        ('<HeadwayJob token="" />', "Property 'url' is missing"),
        ('<HeadwayJob token="" url="" onEnd={(job) => job.details} />', "Property 'details' does not exist"),
        ('useJob("", { url: "" }).job?.details', "Property 'details' does not exist on type 'Snapshot<unknown>'"),
        ('<headway-job tokn="" />', "Property 'tokn' does not exist"),
        *[(f"<headway-job on{event}={{(event) => event.details}} />", "'details' does not exist") for event in EVENTS],
    ],
)
def test_types_reject_misuse(app: Path, expression: str, error: str) -> None:
    """The compiler rejects unknown, missing and wrong properties, and unknown fields of snapshots and events."""
    output = compile_with(app, MISUSE % expression)
    assert output.startswith("src/Misuse.tsx")
    assert output.count("error TS") == 1
    assert error in output
