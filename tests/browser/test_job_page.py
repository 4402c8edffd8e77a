"""The pages in a real browser, from the button to the end of the job and through all that can go wrong."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, Route, expect

from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner
from tests.browser.conftest import PageErrors, SendReport, forge_signature
from tests.stack import Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

HTML = '<img src="x" onerror="document.title = 1">'
DAY_S = 86_400

# What a policy without 'unsafe-inline' would stop.
INLINE = """[...document.querySelectorAll("*")].filter((element) => {
  const names = [...element.attributes].map(({ name }) => name);
  return element.matches("style, script:not([src])") || names.some((name) => /^(on|style$)/.test(name));
}).map((element) => element.outerHTML)"""

# How much the text of each element stands out from the page, as WCAG counts it.
CONTRAST = """(selectors) => {
  const numbers = (element, property) => getComputedStyle(element)[property].match(/[\\d.]+/g).map(Number);
  const light = (channel) => (channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4);
  const luminance = (rgb) => {
    const [red, green, blue] = rgb.map((channel) => light(channel / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const paper = luminance(numbers(document.body, "backgroundColor"));
  return selectors.map((selector) => {
    const ink = luminance(numbers(document.querySelector(selector), "color"));
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  });
}"""


async def renders(page: Page) -> list[dict[str, Any]]:
    """Return each state of the job that the page has shown."""
    shown: list[dict[str, Any]] = await page.evaluate("renders")
    return shown


async def first_render(page: Page) -> dict[str, Any]:
    """Wait for the first state of the job that the page shows."""
    shown: list[dict[str, Any]] = await wait_until(lambda: renders(page))
    return shown[0]


async def shown_value(page: Page) -> float:
    """Return how far the bar is."""
    value: float = await page.locator("#bar").evaluate("(bar) => bar.value")
    return value


async def reach(page: Page, least: float) -> float:
    """Wait until the bar has come so far; return where it is."""

    async def value() -> float:
        now = await shown_value(page)
        return now if now >= least else 0

    reached: float = await wait_until(value)
    return reached


def never_falls(shown: list[dict[str, Any]]) -> None:
    """Check that neither versions nor the bar have ever gone back."""
    for field in ("version", "value"):
        values = [state[field] for state in shown]
        assert values == sorted(values), shown


async def test_bar_rises_to_the_end(page: Page, stack: Stack) -> None:
    """A click starts a job whose bar rises in many steps to *Succeeded*, and nothing goes wrong in the browser."""
    errors = PageErrors(page)
    await page.goto(stack.url)
    await page.get_by_role("button", name="Start a new job").click()
    await expect(page.locator("#status")).to_have_text("Succeeded")
    shown = await renders(page)
    never_falls(shown)
    values = sorted({state["value"] for state in shown if state["value"]})
    assert len(values) >= 8
    assert values[-1] == 100
    await expect(page.locator("#percent")).to_have_text("100 %")
    await expect(page.locator("#result")).to_have_text('"Counted 10 steps"')
    await expect(page).to_have_title("✓ countdown")
    assert re.fullmatch(r".*/jobs/[0-9a-f-]{36}#[\w.-]+", page.url)
    assert errors.messages == []


async def test_every_tab_shows_the_same(context: BrowserContext, stack: Stack) -> None:
    """A reload and a second tab show the current state at once, and a tab opened after the end shows the end."""
    receipt = await stack.submit(payload={"steps": 100, "delay_s": 0.1})
    link = receipt["links"]["page"]
    first, second, late = [await context.new_page() for _ in range(3)]
    await first.goto(link)
    before = await reach(first, 20)
    await first.reload()
    assert (await first_render(first))["value"] >= before
    before = await shown_value(first)
    await second.goto(link)
    assert (await first_render(second))["value"] >= before
    for tab in (first, second):
        await expect(tab.locator("#status")).to_have_text("Succeeded")
    by_version = [{state["version"]: state for state in await renders(tab)} for tab in (first, second)]
    both = by_version[0].keys() & by_version[1].keys()
    assert len(both) > 1
    assert all(by_version[0][version] == by_version[1][version] for version in both)
    await late.goto(link)
    assert await first_render(late) == {**by_version[0][max(both)], "status": "succeeded", "value": 100}


async def test_failed_job_shows_its_error(page: Page, stack: Stack) -> None:
    """A job that fails says so and shows its error, which names the field."""
    receipt = await stack.submit(payload={"steps": "x"})
    await page.goto(receipt["links"]["page"])
    await expect(page.locator("#status")).to_have_text("Failed")
    await expect(page.locator("#error-type")).to_have_text("InvalidPayload")
    await expect(page.locator("#error-message")).to_contain_text("$.steps")
    await expect(page.locator("#outcome")).to_be_hidden()
    await expect(page).to_have_title("✗ countdown")


async def test_unknown_kind_is_text(page: Page, stack: Stack) -> None:
    """Markup in a job's kind, and in the error that quotes it, is shown as text."""
    errors = PageErrors(page)
    receipt = await stack.submit(kind=HTML)
    await page.goto(receipt["links"]["page"])
    await expect(page.locator("#error-message")).to_contain_text(HTML)
    await expect(page.locator("#kind")).to_have_text(HTML)
    await expect(page.locator("main img")).to_have_count(0)
    assert errors.messages == []


async def test_reported_markup_is_text(page: Page, stack: Stack, report: SendReport) -> None:
    """Markup in a worker's message, unit, error and result is shown as text."""
    errors = PageErrors(page)
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    progress = {"current": 1, "total": 2, "unit": "<b>files</b>", "message": HTML}
    await report(receipt, "failed", progress=progress, result=[HTML], error={"type": HTML, "message": HTML})
    await expect(page.locator("#message")).to_have_text(HTML)
    await expect(page.locator("#progress-text")).to_have_text("1 of 2 <b>files</b>")
    await expect(page.locator("#error-type")).to_have_text(HTML)
    await expect(page.locator("#error-message")).to_have_text(HTML)
    await expect(page.locator("#result")).to_contain_text("<img src=")
    await expect(page.locator("main :is(img, b)")).to_have_count(0)
    assert errors.messages == []


async def test_killed_notifier_is_survived(page: Page, stack: Stack) -> None:
    """While the notifier is away the page says that it reconnects; then it goes on to the end, never backwards."""
    receipt = await stack.submit(payload={"steps": 60, "delay_s": 0.1})
    await page.goto(receipt["links"]["page"])
    await reach(page, 20)
    await stack.kill("notifier")
    await expect(page.locator("#status")).to_have_text("Succeeded")
    await expect(page.locator("#connection")).to_be_hidden()
    assert await page.evaluate("notices") == [True, False]
    shown = await renders(page)
    never_falls(shown)
    assert shown[-1]["value"] == 100


async def test_notice_tells_what_is_seen(page: Page, stack: Stack) -> None:
    """The notice of a lost connection says in words that the page reconnects and shows the last known state."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await first_render(page)
    await page.evaluate("WebSocket = class { close() {} }; dispatchEvent(new Event('online'))")  # it never opens
    await expect(page.locator("#connection")).to_be_visible()
    await expect(page.locator("#connection")).to_have_text("Reconnecting… What you see is the last known state.")
    await expect(page.locator("#status")).to_have_text("Queued")


async def test_counts_without_a_total(page: Page, stack: Stack, report: SendReport) -> None:
    """A job that does not know how much there is shows its count and a bar that only says that it moves."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await report(receipt, progress={"current": 1234.5, "unit": "files"})
    await expect(page.locator("#progress-text")).to_have_text("1,234.5 files")
    await expect(page.locator("#bar:indeterminate")).to_have_count(1)
    await expect(page.locator("#percent")).to_be_empty()


async def test_remaining_time_is_told(page: Page, stack: Stack, report: SendReport) -> None:
    """A running job shows how long it has taken and, once that can be told, how long it will go on."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await report(receipt)
    await expect(page.locator("#elapsed")).to_have_text("0:01")
    await expect(page.locator("#remaining")).to_be_empty()
    await report(receipt, progress={"current": 1, "total": 10})
    await expect(page.locator("#remaining")).to_have_text(re.compile(r"about 0:\d\d"))


async def test_job_is_cancelled_from_its_page(page: Page, stack: Stack) -> None:
    """Who may cancel has a button, which says that it is at it until the job has ended."""
    receipt = await stack.submit(payload={"steps": 600, "delay_s": 0.1})
    await page.goto(receipt["links"]["page"])
    await expect(page.locator("#status")).to_have_text("Running")
    button = page.get_by_role("button", name="Cancel job")
    await button.evaluate("(button) => { button.click(); window.said = [button.textContent, button.disabled]; }")
    assert await page.evaluate("said") == ["Cancelling…", True]
    await expect(page.locator("#status")).to_have_text("Cancelled")
    await expect(page.locator("#cancel")).to_be_hidden()


async def test_watch_only_link_is_copied(page: Page, stack: Stack) -> None:
    """The link that the page copies opens the same job, with nothing to cancel it."""
    errors = PageErrors(page)
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await page.get_by_role("button", name="Copy watch-only link").click()
    await expect(page.locator("#shared")).to_have_text("Copied. It can watch, not cancel.")
    link = await page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{stack.url}/jobs/{receipt['id']}#")
    assert link != receipt["links"]["page"]
    other = await page.context.new_page()
    await other.goto(link)
    await expect(other.locator("#status")).to_have_text("Queued")
    await expect(other.locator("#cancel")).to_have_count(0)
    assert errors.messages == []


async def test_link_can_be_copied_by_hand(page: Page, stack: Stack) -> None:
    """Where a page may not write to the clipboard, the link stands in a field, selected."""
    await page.add_init_script("navigator.clipboard.writeText = () => Promise.reject(new Error('no'))")
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await page.get_by_role("button", name="Copy watch-only link").click()
    field = page.get_by_label("Watch-only link", exact=True)
    await expect(field).to_be_focused()
    link = await field.input_value()
    assert await page.evaluate("getSelection().toString()") == link
    assert link.startswith(f"{stack.url}/jobs/{receipt['id']}#")
    await expect(page.locator("#shared")).to_contain_text("Copy this link")


async def test_link_that_is_refused_is_explained(page: Page, stack: Stack) -> None:
    """When there is no link to share the page says why."""

    async def refuse(route: Route) -> None:
        await route.fulfill(status=429, json={"status": 429, "detail": "Too many requests; try again in 3 s."})

    await page.route("**/token", refuse)
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await page.get_by_role("button", name="Copy watch-only link").click()
    await expect(page.locator("#shared")).to_have_text(
        "The link could not be created. Too many requests; try again in 3 s."
    )
    await expect(page.locator("#link")).to_be_hidden()


async def test_lost_worker_is_told(page: Page, stack: Stack, report: SendReport) -> None:
    """A job whose lease has not been renewed says that its worker is lost, and counts down to the next attempt."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await report(receipt, lease_until=str(Timestamp.now().after(600)))
    await expect(page.locator("#status")).to_have_text("Running")
    await expect(page.locator("#outlook")).to_be_empty()
    await report(receipt, lease_until=str(Timestamp.now().after(12)))
    await expect(page.locator("#outlook")).to_have_text(re.compile(r"Worker lost, next attempt in \d s"))
    await expect(page.locator("#outlook")).to_have_text("Worker lost, next attempt soon")
    await report(receipt, lease_until=str(Timestamp.now().after(600)))
    await expect(page.locator("#outlook")).to_be_empty()
    await report(receipt, lease_until=str(Timestamp.now().after(1)), attempt=5)
    await expect(page.locator("#outlook")).to_have_text("Worker lost, no attempt left")


async def test_next_attempt_is_counted_down_to(page: Page, stack: Stack, report: SendReport) -> None:
    """A retrying job says when it is tried again, by the server's clock however wrong the browser's is."""
    await page.clock.install(time="2001-01-01")
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await report(receipt, "retrying", due_at=str(Timestamp.now().after(20)))
    await expect(page.locator("#outlook")).to_have_text(re.compile(r"next attempt in (1\d|20) s"))
    await expect(page.locator("#outlook")).to_have_text("next attempt in 15 s")


@pytest.mark.parametrize("width", [360, 1280])
async def test_nothing_moves_as_text_comes(page: Page, stack: Stack, report: SendReport, width: int) -> None:
    """Whatever is said of a job, what stands below stays where it is."""
    places = set()
    await page.set_viewport_size({"width": width, "height": 800})
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    progress = {"current": 4, "total": 10, "unit": "files", "message": "Resizing"}
    states: dict[str, dict[str, Any]] = {
        "queued": {},
        "running": {"progress": progress, "lease_until": str(Timestamp.now().after(1))},
        "retrying": {"progress": progress, "due_at": str(Timestamp.now().after(60))},
        "succeeded": {"progress": progress},
    }
    for status, more in states.items():
        await report(receipt, status, **more)
        await expect(page.locator("#status")).to_have_text(status.capitalize())
        if status == "running":
            await expect(page.locator("#outlook")).to_contain_text("Worker lost")
        places.add(await page.evaluate("[...document.querySelectorAll('dl, .actions')].map((e) => e.offsetTop).join()"))
    assert len(places) == 1, places


def expired(stack: Stack, receipt: dict[str, Any]) -> str:
    """Return a token whose time is over."""
    signer = TokenSigner((stack.folder / "keys" / "token.pem").read_text())
    now = Timestamp.now()
    return signer.sign(
        Grant(job_id=receipt["id"], kind="countdown", submitted_at=now.after(-DAY_S), expires_at=now.after(-3600))
    )


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (lambda *_: "", "This link is incomplete"),
        (lambda *_: "nonsense", "This link is not valid"),
        (lambda _, receipt: receipt["token"][:60], "This link is not valid"),
        (lambda _, receipt: forge_signature(receipt["token"]), "This link is not valid"),
        (expired, "This link has expired"),
    ],
    ids=["none", "nonsense", "cut", "forged", "expired"],
)
async def test_unusable_link_is_explained(
    page: Page, stack: Stack, token: Callable[[Stack, dict[str, Any]], str], words: str
) -> None:
    """A link without a usable token is explained in words, and no job and no bar is shown."""
    errors = PageErrors(page)
    receipt = await stack.submit(delay_s=3600)
    await page.goto(f"{stack.url}/jobs/{receipt['id']}#{token(stack, receipt)}")
    await expect(page.locator("#error-type")).to_have_text(words)
    await expect(page.locator("#error-message")).not_to_be_empty()
    await expect(page.locator("#status")).to_have_text("No job to show")
    await expect(page.locator("#job")).to_be_hidden()
    await expect(page.locator("#connection")).to_be_hidden()
    assert errors.messages == []


async def test_a_key_opens_its_own_job_alone(page: Page, stack: Stack) -> None:
    """Under another job's address it opens nothing, so that nobody takes one job for another."""
    receipt, other = await stack.submit(delay_s=3600), await stack.submit(delay_s=3600)
    await page.goto(f"{stack.url}/jobs/{other['id']}#{receipt['token']}")
    await expect(page.locator("#error-type")).to_have_text("This link is not valid")
    await expect(page.locator("#cancel")).to_be_hidden()


async def test_silence_is_told(page: Page, stack: Stack) -> None:
    """While the notifier does not answer, a page that was just opened says so, and goes on once it does."""
    receipt = await stack.submit(delay_s=3600)
    process = stack.pid("notifier")
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    try:
        await page.goto(receipt["links"]["page"])
        await expect(page.locator("#status")).to_contain_text("does not answer yet")
    finally:
        os.kill(process, signal.SIGCONT)
    await expect(page.locator("#status")).to_have_text("Queued")


async def test_pasted_key_opens_the_job(page: Page, stack: Stack) -> None:
    """Another key pasted over the address opens its job."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(f"{stack.url}/jobs/{receipt['id']}")
    await expect(page.locator("#error")).to_be_visible()
    await page.evaluate("(token) => { location.hash = token; }", receipt["token"])
    await expect(page.locator("#status")).to_have_text("Queued")
    await expect(page.locator("#outlook")).to_have_text(re.compile("starts at"))
    await expect(page.locator("#error")).to_be_hidden()


async def test_keyboard_starts_a_job(page: Page, stack: Stack) -> None:
    """The button is reached by Tab, shows its focus and is pressed by Enter."""
    await page.goto(stack.url)
    button = page.get_by_role("button", name="Start a new job")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await expect(button).to_be_focused()
    await expect(button).to_have_css("outline-style", "solid")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1, name="countdown")).to_be_visible()
    assert "/jobs/" in page.url


async def test_assistive_technology_is_told(page: Page, stack: Stack, report: SendReport) -> None:
    """Status and bar have roles and names, and of what is written twice a screen reader hears one."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await report(receipt, progress={"current": 4, "total": 10, "unit": "files"})
    await expect(page.get_by_role("status").first).to_have_text("Running")
    bar = page.get_by_role("progressbar", name="Progress")
    await expect(bar).to_have_js_property("value", 40)
    await expect(bar).to_have_accessible_description("4 of 10 files")
    await expect(page.locator("#percent")).to_have_attribute("aria-hidden", "true")
    await expect(page.locator("html")).to_have_attribute("lang", "en")
    await expect(page.get_by_role("main")).to_have_count(1)
    await report(receipt, "succeeded", result={"files": 10})
    await expect(page.get_by_role("region", name="Result")).to_be_visible()


async def test_narrow_screen_needs_no_sideways_scrolling(page: Page, stack: Stack, report: SendReport) -> None:
    """At 360 px neither page is wider than the screen, whatever a worker writes."""
    wide = "document.documentElement.scrollWidth > innerWidth"
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.goto(stack.url)
    assert not await page.evaluate(wide)
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    long = "W" * 120
    progress = {"current": 123_456_789_012, "total": 923_456_789_012, "unit": long[:32], "message": long}
    ending = {"result": {long: long}, "error": {"type": long, "message": long}, "kind": long}
    await report(receipt, "failed", progress=progress, **ending)
    await expect(page.locator("#error-type")).to_have_text(long)
    assert not await page.evaluate(wide)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("status", ["queued", "running", "retrying", "failed"])
async def test_text_has_contrast(page: Page, stack: Stack, report: SendReport, scheme: Any, status: str) -> None:
    """By day and by night all text of a job stands out from the paper by 4.5 to 1 at least."""
    await page.emulate_media(color_scheme=scheme)
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await report(receipt, status, progress={"current": 1, "total": 2, "message": "Half"})
    await expect(page.locator("#message")).to_have_text("Half")
    paper = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper))) > 128) == (scheme == "light")
    texts = ["#kind", "#status", "#percent", "#progress-text", "#message", "dt", "dd", "header a:last-child"]
    ratios = dict(zip(texts, await page.evaluate(CONTRAST, texts), strict=True))
    assert min(ratios.values()) >= 4.5, ratios


@pytest.mark.parametrize("path", ["/", "/jobs/x"])
async def test_policy_allows_files_of_our_own_only(page: Page, stack: Stack, path: str) -> None:
    """Both pages forbid inline code by their policy and have none; only the notifier may be connected to."""
    errors = PageErrors(page)
    response = await page.goto(stack.url + path)
    assert response is not None
    assert response.status == 200
    directives = (await response.all_headers())["content-security-policy"].split("; ")
    policy = {name: values for name, *values in map(str.split, directives)}
    live = stack.env["LIVE_URL"]
    assert policy["connect-src"] == ["'self'", live, live.replace("http", "ws", 1)]
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == policy["style-src"] == ["'self'"]
    assert not {"'unsafe-inline'", "'unsafe-eval'", "*"} & set(" ".join(directives).split())
    assert await page.evaluate(INLINE) == []
    assert errors.messages == []


async def test_modules_are_asked_for_at_once(page: Page, stack: Stack) -> None:
    """The page names every module that it comes to need, so that none waits for another to ask for it."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await expect(page.locator("#status")).to_have_text("Queued")
    named, loaded = await page.evaluate("""() => {
        const named = [...document.querySelectorAll("script, [rel=modulepreload]")].map(({ src, href }) => src || href);
        return [named, performance.getEntriesByType("resource").map(({ name }) => name)];
    }""")
    assert sorted(named) == sorted({name for name in loaded if name.endswith(".js")})


async def test_injected_code_does_not_run(page: Page, stack: Stack) -> None:
    """Code that would get into a page after all is stopped by the policy."""
    await page.goto(stack.url)
    blocked = await page.evaluate("""new Promise((resolve) => {
        addEventListener("securitypolicyviolation", ({ effectiveDirective }) => resolve(effectiveDirective));
        document.querySelector("main").innerHTML = '<img src="data:," onerror="document.title = 1">';
        document.querySelector("main").append(Object.assign(document.createElement("script"), { text: "title = 2" }));
    })""")
    assert blocked.startswith("script-src")
    await expect(page).to_have_title("Headway")
