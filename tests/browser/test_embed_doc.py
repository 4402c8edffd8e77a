"""The htmx, React and TypeScript examples of docs/embed.md, run and checked with the real ones."""

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

# Show the component, or what the hook tells, of the job that a token opens; without a token, nothing.
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

# What an application in TypeScript writes in the examples' place.
SNAPSHOT = 'import type { Snapshot } from "headway-live";\n'
TYPED_COMPONENT = {
    "({ token })": "({ token }: { token: string })",
    "useState(null)": "useState<Snapshot<{ link: string }> | null>(null)",
    "event.detail": "event.detail as Snapshot<{ link: string }>",
    "job.result.link": "job.result?.link",
}
TYPED_HOOK = {"(token)": "(token: string)", "useState(null)": "useState<Snapshot | null>(null)"}
NO_DETAILS = "Property 'details' does not exist on type 'CustomEvent<"

MODES = pytest.mark.parametrize("mode", ["Fragment", "StrictMode"])


def program(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of an installed package in a folder."""
    found = node.find_node()
    assert found is not None
    return subprocess.run([found.node, PACKAGES / script, *arguments], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Make the folder of an application that has installed the packages."""
    (tmp_path / "node_modules").symlink_to(PACKAGES)
    return tmp_path


@pytest.fixture
async def react(page: Page, app: Path, stack: Stack, allowed_site: FakeSite) -> AsyncIterator[Page]:
    """Open a page of an application that is made of the examples; nothing may go wrong in it."""
    for name, text in {"component": COMPONENT, "hook": HOOK, "main": MAIN}.items():
        (app / f"{name}.jsx").write_text(fill_in(text, stack))
    options = ("--bundle", "--format=esm", "--jsx=automatic", "--log-level=warning")
    built = program(app, "esbuild/bin/esbuild", "main.jsx", *options)
    assert built.stderr == ""
    script = '<script type="module" src="/main.js"></script>'
    allowed_site.pages = {"/": f"<!doctype html><title>x</title>{script}<main></main>", "/main.js": built.stdout}
    errors = PageErrors(page)
    await page.goto(allowed_site.origin)
    yield page
    assert errors.messages == []


async def watched(stack: Stack, count: int) -> None:
    """Wait until the notifier watches so many jobs."""

    async def settled() -> bool:
        return await stack.metric("notifier_watched_jobs") == count

    await wait_until(settled)


@pytest.mark.parametrize("package", ["htmx.org", "htmx.org-2"])
async def test_htmx_swaps_the_element_in(
    page: Page, stack: Stack, allowed_site: FakeSite, report: SendReport, package: str
) -> None:
    """A fragment that a button's answer brings is live, and its end fetches the next fragment, once."""
    errors = PageErrors(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
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
    await watched(stack, 0)
    exports = f"{allowed_site.origin}/exports"
    assert [line for line in asked if exports in line] == [f"POST {exports}", f"GET {exports}/march"]
    assert errors.messages == []


@MODES
async def test_react_component_shows_the_job(react: Page, stack: Stack, report: SendReport, mode: str) -> None:
    """The component shows a job and links to its result; another token shows another job, and no token closes all."""
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
    await watched(stack, 1)
    await react.evaluate(SHOW, ["component", mode, None])
    await watched(stack, 0)


@MODES
async def test_react_hook_follows_the_job(react: Page, stack: Stack, report: SendReport, mode: str) -> None:
    """The hook tells each status; another token closes the old watch, and unmounting the last one."""
    first, second = [await stack.submit(delay_s=3600) for _ in range(2)]
    status = react.locator("output")
    await react.evaluate(SHOW, ["hook", mode, first["token"]])
    await expect(status).to_have_text("queued")
    for reported in ("running", "retrying", "succeeded"):
        await report(first, reported)
        await expect(status).to_have_text(reported)
    await react.evaluate(SHOW, ["hook", mode, second["token"]])
    await expect(status).to_have_text("queued")
    await watched(stack, 1)
    await react.evaluate(SHOW, ["hook", mode, "nonsense"])
    await expect(status).to_be_empty()
    await watched(stack, 0)
    await react.evaluate(SHOW, ["hook", mode, second["token"]])
    await expect(status).to_have_text("queued")
    await watched(stack, 1)
    await react.evaluate(SHOW, ["hook", mode, None])
    await watched(stack, 0)


def replaced(text: str, changes: dict[str, str]) -> str:
    """Change what stands in a text exactly once."""
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def complaints(app: Path, misuse: dict[str, str]) -> str:
    """Return what TypeScript has against the examples when the component is misused like this."""
    (tag,) = code_blocks("ts")
    files = {
        "tag.ts": tag,
        "component.tsx": SNAPSHOT + replaced(COMPONENT, TYPED_COMPONENT | misuse),
        "hook.tsx": SNAPSHOT + replaced(HOOK, TYPED_HOOK),
    }
    for name, text in files.items():
        (app / name).write_text(text)
    checked = program(app, "typescript/bin/tsc", "--noEmit", "--strict", "--jsx", "react-jsx", *files)
    return checked.stdout + checked.stderr


def test_types_accept_the_examples(app: Path) -> None:
    """TypeScript knows the tag, and what the hook returns."""
    assert complaints(app, {}) == ""


@pytest.mark.parametrize(
    ("misuse", "complaint"),
    [
        ({"token={token}": "tokn={token}"}, "Property 'tokn' does not exist on type 'Props'"),
        ({"token={token}": "token={1}"}, "Type 'number' is not assignable to type 'string'"),
        *[({"onheadway-end": f"on{event}", "event.detail": "event.details"}, NO_DETAILS) for event in EVENTS],
    ],
    ids=["attribute", "value", *EVENTS],
)
def test_types_reject_a_misuse(app: Path, misuse: dict[str, str], complaint: str) -> None:
    """TypeScript complains of an attribute that there is not, a wrong value, an event that tells no such thing."""
    told = complaints(app, misuse)
    assert told.startswith("component.tsx")
    assert told.count("error TS") == 1
    assert complaint in told
