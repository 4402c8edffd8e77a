"""The examples of docs/show-progress.md, run with htmx and React and checked by the TypeScript compiler."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from dev import node
from dev.environment import ROOT
from tests.browser import embedding
from tests.browser.conftest import PageErrors, SendReport
from tests.browser.embedding import EVENTS, code_blocks, fill_in, part
from tests.browser.fake_site import FakeSite
from tests.stack import Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

sites, stack, allowed_site = embedding.sites, embedding.stack, embedding.allowed_site

PACKAGES = ROOT / "tests" / "browser" / "node" / "node_modules"
COMPONENT, HOOK = code_blocks("jsx")

# Show a view of the job that a token opens: the component, or the status that the hook returns. No token, no view.
MAIN = """
import { Fragment, StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Export } from "./component.jsx";
import { useJob } from "./hook.jsx";

const views = {
  component: ({ token }) => <Export key={token} token={token} />,
  hook: ({ token }) => <output>{useJob(token)?.status}</output>,
};
const modes = { Fragment, StrictMode };
const root = createRoot(document.querySelector("main"));

window.show = (view, mode, token) => {
  const [View, Mode] = [views[view], modes[mode]];
  root.render(<Mode>{token && <View token={token} />}</Mode>);
};
"""
SHOW = "(view) => show(...view)"

# Replacements that turn the examples into TypeScript.
SNAPSHOT_IMPORT = 'import type { Snapshot } from "headway-live";\n'
TYPED_COMPONENT = {
    "({ token })": "({ token }: { token: string })",
    "useState(null)": "useState<Snapshot<{ link: string }> | null>(null)",
    "event.detail": "event.detail as Snapshot<{ link: string }>",
    "job.result.link": "job.result?.link",
}
TYPED_HOOK = {"(token)": "(token: string)", "useState(null)": "useState<Snapshot | null>(null)"}
NO_DETAILS = "Property 'details' does not exist on type 'CustomEvent<"

MODES = pytest.mark.parametrize("mode", ["Fragment", "StrictMode"])


def run_script(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of an installed package in a folder."""
    nodejs = node.find_node()
    assert nodejs is not None
    return subprocess.run([nodejs.node, PACKAGES / script, *arguments], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Return the folder of an application that has installed the packages."""
    (tmp_path / "node_modules").symlink_to(PACKAGES)
    return tmp_path


@pytest.fixture
async def react(page: Page, app: Path, stack: Stack, allowed_site: FakeSite) -> AsyncIterator[Page]:
    """Open a page of an application that consists of the examples; the page must cause no errors."""
    for name, text in {"component": COMPONENT, "hook": HOOK, "main": MAIN}.items():
        (app / f"{name}.jsx").write_text(fill_in(text, stack))
    options = ("--bundle", "--format=esm", "--jsx=automatic", "--log-level=warning")
    bundled = run_script(app, "esbuild/bin/esbuild", "main.jsx", *options)
    assert bundled.stderr == ""
    script = '<script type="module" src="/main.js"></script>'
    allowed_site.pages = {"/": f"<!doctype html><title>x</title>{script}<main></main>", "/main.js": bundled.stdout}
    errors = PageErrors(page)
    await page.goto(allowed_site.origin)
    yield page
    assert errors.messages == []


async def wait_for_watched_jobs(stack: Stack, count: int) -> None:
    """Wait until this number of jobs is watched at the notifier."""

    async def settled() -> bool:
        return await stack.metric("notifier_watched_jobs") == count

    await wait_until(settled)


@pytest.mark.parametrize("package", ["htmx.org", "htmx.org-2"])
async def test_htmx_inserts_the_element(
    page: Page, stack: Stack, allowed_site: FakeSite, report: SendReport, package: str
) -> None:
    """The element in the response to a button is live; when its job ends, htmx fetches the next fragment once."""
    errors = PageErrors(page)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(f"{request.method} {request.url}"))
    receipt = await stack.submit(delay_s=3600)
    _, button, fragment = code_blocks("html")
    scripts = f'<script src="/htmx.js"></script><script type="module" src="{stack.url}/assets/headway.js"></script>'
    allowed_site.pages = {
        "/": f"<!doctype html><title>x</title>{scripts}{button}",
        "/htmx.js": (PACKAGES / package / "dist" / "htmx.min.js").read_text(),
        "/exports": fill_in(fragment, stack, receipt["token"]),
        "/exports/march": "<b>Ready</b>",
    }
    await page.goto(allowed_site.origin)
    await page.get_by_role("button", name="Export").click()
    await expect(page.locator("#exports headway-job")).to_contain_text("Export of March")
    await report(receipt, progress={"current": 1, "total": 2})
    await expect(part(page, "percent")).to_have_text("50 %")
    await report(receipt, "succeeded")
    await expect(page.locator("#exports")).to_have_text("Ready")
    await wait_for_watched_jobs(stack, 0)
    exports = f"{allowed_site.origin}/exports"
    assert [request for request in requests if exports in request] == [f"POST {exports}", f"GET {exports}/march"]
    assert errors.messages == []


@MODES
async def test_react_component_shows_the_job(react: Page, stack: Stack, report: SendReport, mode: str) -> None:
    """The component shows a job and links to its result; a new token switches to another job, no token closes it."""
    first, second = [await stack.submit(delay_s=3600) for _ in range(2)]
    link = react.get_by_role("link", name="Download")
    await react.evaluate(SHOW, ["component", mode, first["token"]])
    await report(first, progress={"current": 1, "total": 2})
    await expect(react.get_by_role("progressbar", name="Export of March")).to_have_attribute("aria-valuenow", "50")
    await expect(part(react, "status")).to_have_text("Running")
    await expect(link).to_have_count(0)
    await report(first, "succeeded", result={"link": "/march.csv"})
    await expect(link).to_have_attribute("href", "/march.csv")
    await react.evaluate(SHOW, ["component", mode, second["token"]])
    await expect(part(react, "status")).to_have_text("Queued")
    await expect(link).to_have_count(0)
    await wait_for_watched_jobs(stack, 1)
    await react.evaluate(SHOW, ["component", mode, None])
    await wait_for_watched_jobs(stack, 0)


@MODES
async def test_react_hook_follows_the_job(react: Page, stack: Stack, report: SendReport, mode: str) -> None:
    """The hook returns each status; a new token closes the old watch, and unmounting closes the last one."""
    first, second = [await stack.submit(delay_s=3600) for _ in range(2)]
    status = react.locator("output")
    await react.evaluate(SHOW, ["hook", mode, first["token"]])
    await expect(status).to_have_text("queued")
    for next_status in ("running", "retrying", "succeeded"):
        await report(first, next_status)
        await expect(status).to_have_text(next_status)
    await react.evaluate(SHOW, ["hook", mode, second["token"]])
    await expect(status).to_have_text("queued")
    await wait_for_watched_jobs(stack, 1)
    await react.evaluate(SHOW, ["hook", mode, "nonsense"])
    await expect(status).to_be_empty()
    await wait_for_watched_jobs(stack, 0)
    await react.evaluate(SHOW, ["hook", mode, second["token"]])
    await expect(status).to_have_text("queued")
    await wait_for_watched_jobs(stack, 1)
    await react.evaluate(SHOW, ["hook", mode, None])
    await wait_for_watched_jobs(stack, 0)


def replace_once(text: str, replacements: dict[str, str]) -> str:
    """Replace texts that must occur exactly once."""
    for before, after in replacements.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def compile_examples(app: Path, replacements: dict[str, str]) -> str:
    """Return the output of the TypeScript compiler for the examples, with replacements in the component."""
    (tag,) = code_blocks("ts")
    files = {
        "tag.ts": tag,
        "component.tsx": SNAPSHOT_IMPORT + replace_once(COMPONENT, TYPED_COMPONENT | replacements),
        "hook.tsx": SNAPSHOT_IMPORT + replace_once(HOOK, TYPED_HOOK),
    }
    for name, text in files.items():
        (app / name).write_text(text)
    compiled = run_script(app, "typescript/bin/tsc", "--noEmit", "--strict", "--jsx", "react-jsx", *files)
    return compiled.stdout + compiled.stderr


def test_types_accept_the_examples(app: Path) -> None:
    """The compiler knows the element and the type that the hook returns."""
    assert compile_examples(app, {}) == ""


@pytest.mark.parametrize(
    ("misuse", "error"),
    [
        ({"token={token}": "tokn={token}"}, "Property 'tokn' does not exist on type 'Props'"),
        ({"token={token}": "token={1}"}, "Type 'number' is not assignable to type 'string'"),
        *[({"onheadway-end": f"on{event}", "event.detail": "event.details"}, NO_DETAILS) for event in EVENTS],
    ],
    ids=["attribute", "value", *EVENTS],
)
def test_types_reject_misuse(app: Path, misuse: dict[str, str], error: str) -> None:
    """The compiler rejects an unknown attribute, a value of the wrong type, and an unknown property of an event."""
    output = compile_examples(app, misuse)
    assert output.startswith("component.tsx")
    assert output.count("error TS") == 1
    assert error in output
