"""How the dashboard goes from view to view: the focus, the place in a page, quick changes, and views that do not load.

The frame is the real one; the views are those of the test.
"""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.conftest import PageErrors, page_value
from tests.browser.dashboard import inspect
from tests.browser.live_site import LiveSite

pytestmark = pytest.mark.browser

# Views whose content comes later, as from a server, with links to the others.
DASHBOARD = """
import { arrange, h } from "/assets/dom.js";
import { Router } from "/assets/router.js";
import { Views } from "/assets/views.js";

window.log = [];
const link = (href, text) => h("a", { href }, text);
const view = (name) => class {
  element = h("section");
  constructor() { log.push(`open ${name}`); }
  update({ name: id, query, hash }) {
    log.push(`update ${name} ${id ?? ""}${query.size ? `?${query}` : ""}${hash && `#${hash}`}`);
    setTimeout(() => arrange(this.element, ["heading", ...Array(60).keys()].map(String), (key) => this.#row(key)), 50);
  }
  #row(key) {
    if (key === "heading") return h("h1", {}, name);
    return h("p", {}, link(`/dashboard/jobs/${key}`, `Job ${key}`), " ", link(`?page=${key}`, `Page ${key}`));
  }
  close() { log.push(`close ${name}`); }
};
const app = { notices: { element: h("div") } };
const modules = {
  jobs: async () => ({ default: view("Jobs") }),
  job: async () => ({ default: view("Job") }),
  kinds: () => import("/assets/kinds-view.js"),
  workers: async () => ({ default: view("Workers") }),
};
const views = new Views(app, modules);
app.router = new Router((route, arrival) => views.show(route, arrival));
const main = h("main", { id: "view", tabindex: -1 });
const links = ["kinds", "workers"].map((name) => link(`/dashboard/${name}`, name));
document.body.replaceChildren(h("nav", {}, ...links), main);
views.open(main);
views.show(app.router.route, "return");
window.router = app.router;
"""
KINDS = """export default class {
  element = document.createElement("h1");
  constructor() { this.element.textContent = "Kinds"; log.push("open Kinds"); }
  update() {}
  close() { log.push("close Kinds"); }
}"""

# Load a style sheet, and return how often the page has it.
LOAD_STYLES = """async () => {
  const { loadStyles } = await import("/assets/dom.js");
  await loadStyles("help.css");
  return [...document.styleSheets].filter(({ href }) => href?.endsWith("/help.css")).length;
}"""
# Ask for a name in a dialog whose request waits for the test.
ASK = """async () => {
  const { h } = await import("/assets/dom.js");
  const { ask } = await import("/assets/dialogs.js");
  const buttons = [{ value: "", text: "Not now" }, { value: "yes", text: "Rename", isMain: true }];
  const onSubmit = () => new Promise((resolve, reject) => { window.request = { resolve, reject }; });
  const content = [h("input", { autofocus: true })];
  ask({ title: "Rename", content, buttons, onSubmit }).then((value) => { window.answer = value; });
}"""


async def serve_views(page: Page) -> None:
    """Serve the views of the test."""
    await page.route(
        "**/assets/dashboard.js", lambda route: route.fulfill(body=DASHBOARD, content_type="text/javascript")
    )


async def open_views(page: Page, site: LiveSite, path: str = "") -> None:
    """Open a view of the test."""
    await serve_views(page)
    await page.goto(f"{site.origin}/dashboard{path}")
    await expect(page.get_by_role("link", name="Job 59")).to_be_attached()


async def focused(page: Page) -> str:
    """Return the text of the element that has the focus."""
    text: str = await page.evaluate("document.activeElement.textContent")
    return text


async def test_focus_and_place_follow_the_operator(page: Page, site: LiveSite) -> None:
    """A link leads to the heading of its view, and "back" to the link, where the page was; also after a reload."""
    await open_views(page, site)
    assert await page.evaluate("document.activeElement.tagName") == "BODY"
    link = page.get_by_role("link", name="Job 50")
    await link.focus()
    top = await page.evaluate("scrollY")
    assert top > 0
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Job", exact=True)).to_be_focused()
    assert await page.evaluate("scrollY") == 0
    await page.go_back()
    await expect(link).to_be_focused()
    assert await page.evaluate("scrollY") == top
    await page.go_forward()
    await expect(page.get_by_role("heading", name="Job", exact=True)).to_be_visible()
    await page.reload()
    await page.go_back()
    await expect(link).to_be_focused()
    assert await page.evaluate("scrollY") == top


async def test_change_within_a_view_moves_nothing(page: Page, site: LiveSite) -> None:
    """A view gets a new query, and neither the focus nor the page moves."""
    await open_views(page, site)
    await page.get_by_role("link", name="Page 50").click()
    await expect(page).to_have_url(f"{site.origin}/dashboard?page=50")
    assert await focused(page) == "Page 50"
    assert await page.evaluate("scrollY") > 0
    assert await page.evaluate("log") == ["open Jobs", "update Jobs ", "update Jobs ?page=50"]


async def test_last_of_two_quick_changes_is_shown(page: Page, site: LiveSite) -> None:
    """A view that loads slowly does not replace the one that was chosen after it."""
    requested, released = asyncio.Event(), asyncio.Event()

    async def delay(route: Route) -> None:
        requested.set()
        await released.wait()
        await route.fulfill(body=KINDS, content_type="text/javascript")

    await page.route("**/assets/kinds-view.js", delay)
    await open_views(page, site)
    await page.get_by_role("link", name="kinds").click()
    await requested.wait()
    await page.get_by_role("link", name="workers").click()
    await expect(page.get_by_role("heading", name="Workers")).to_be_focused()
    async with page.expect_response("**/assets/kinds-view.js"):
        released.set()
    assert await page.evaluate("import('/assets/kinds-view.js').then(() => log)") == [
        "open Jobs",
        "update Jobs ",
        "close Jobs",
        "open Workers",
        "update Workers ",
    ]
    await expect(page.get_by_role("heading", name="Workers")).to_be_visible()


async def test_page_without_a_view_says_that_one_loads(page: Page, site: LiveSite) -> None:
    """It says so until the view is there."""
    loaded = asyncio.Event()

    async def delay(route: Route) -> None:
        await loaded.wait()
        await route.fulfill(body=KINDS, content_type="text/javascript")

    await page.route("**/assets/kinds-view.js", delay)
    await serve_views(page)
    await page.goto(f"{site.origin}/dashboard/kinds")
    await expect(page.locator("main")).to_have_text("Loading…")
    loaded.set()
    await expect(page.get_by_role("heading", name="Kinds")).to_be_visible()
    await expect(page.get_by_text("Loading…")).to_have_count(0)


async def test_view_that_does_not_load_can_be_tried_again(page: Page, site: LiveSite) -> None:
    """Without the server, the page says why there is no view, and loads it when the server is there again."""
    await open_views(page, site)
    await page.context.set_offline(True)
    await page.get_by_role("link", name="kinds").click()
    await expect(page.get_by_role("heading", name="This view could not be shown")).to_be_focused()
    await expect(page.locator("main")).to_contain_text("This browser is offline.")
    assert await inspect(page) == []
    await page.get_by_role("button", name="Try again").click()
    await expect(page.locator("main")).to_contain_text("The server cannot be reached yet.")
    await page.route("**/assets/kinds-view.js", lambda route: route.fulfill(body=KINDS, content_type="text/javascript"))
    await page.context.set_offline(False)
    await expect(page.get_by_role("heading", name="Kinds")).to_be_visible()


async def test_links_for_other_tabs_are_left_to_the_browser(page: Page, site: LiveSite) -> None:
    """A click with Ctrl opens a tab, and the page stays."""
    errors = PageErrors(page)
    await open_views(page, site)
    async with page.context.expect_page() as opened:
        await page.get_by_role("link", name="workers").click(modifiers=["ControlOrMeta"])
    await (await opened.value).close()
    assert page.url == f"{site.origin}/dashboard"
    assert errors.messages == []


async def test_busy_dialog_waits_for_its_request(page: Page, site: LiveSite) -> None:
    """Enter in a field presses the main button; a busy dialog stays, shows errors, and returns the focus at its end."""
    await open_views(page, site)
    await page.get_by_role("link", name="Job 3", exact=True).focus()
    await page.evaluate(ASK)
    dialog = page.get_by_role("dialog", name="Rename")
    await expect(dialog.get_by_role("textbox")).to_be_focused()
    await page.keyboard.press("Enter")
    await page_value(page, "window.request")
    await page.keyboard.press("Escape")
    await dialog.get_by_role("button", name="Not now").click(force=True)
    await page.evaluate("request.reject(new Error('The name is taken.'))")
    await expect(dialog.get_by_role("alert")).to_have_text("The name is taken.")
    await page.evaluate("window.request = null")
    await dialog.get_by_role("button", name="Rename").click()
    await page_value(page, "window.request")
    for _ in range(2):  # browsers close the dialog at the second one
        await page.keyboard.press("Escape")
    assert await page.evaluate("window.answer ?? null") is None
    await page.evaluate("request.resolve(true)")
    await expect(page.get_by_role("link", name="Job 3", exact=True)).to_be_focused()
    await page_value(page, "window.answer === 'yes'")


async def test_styles_are_requested_again(page: Page, site: LiveSite) -> None:
    """A style sheet that could not be loaded is requested again when it is needed again, and then only once."""
    await open_views(page, site)
    await page.route("**/assets/help.css", lambda route: route.abort(), times=1)
    assert await page.evaluate(LOAD_STYLES) == 0
    assert [await page.evaluate(LOAD_STYLES) for _ in range(2)] == [1, 1]
