"""The page of a job in a real browser: progress, outcome, cancellation, lost connections and unusable links."""

from __future__ import annotations

import re
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
LAST_KNOWN_STATE = re.compile(r"Reconnecting… Last known state of \d+:\d\d:\d\d")

# Return the elements that a policy without 'unsafe-inline' blocks.
FIND_INLINE_CODE = """[...document.querySelectorAll("*")].filter((element) => {
  const names = [...element.attributes].map(({ name }) => name);
  return element.matches("style, script:not([src])") || names.some((name) => /^(on|style$)/.test(name));
}).map((element) => element.outerHTML)"""

# Return the contrast of each element's text with the page's background, as WCAG defines it.
CONTRAST_RATIOS = """(selectors) => {
  const numbers = (element, property) => getComputedStyle(element)[property].match(/[\\d.]+/g).map(Number);
  const linear = (channel) => (channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4);
  const luminance = (rgb) => {
    const [red, green, blue] = rgb.map((channel) => linear(channel / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const background = luminance(numbers(document.body, "backgroundColor"));
  return selectors.map((selector) => {
    const text = luminance(numbers(document.querySelector(selector), "color"));
    return (Math.max(text, background) + 0.05) / (Math.min(text, background) + 0.05);
  });
}"""


async def get_renders(page: Page) -> list[dict[str, Any]]:
    """Return all states of the job that the page has shown."""
    renders: list[dict[str, Any]] = await page.evaluate("renders")
    return renders


async def first_render(page: Page) -> dict[str, Any]:
    """Wait for the first state of the job that the page shows, and return it."""
    renders: list[dict[str, Any]] = await wait_until(lambda: get_renders(page))
    return renders[0]


async def bar_value(page: Page) -> float:
    """Return the value of the progress bar."""
    value: float = await page.locator("#bar").evaluate("(bar) => bar.value")
    return value


async def wait_for_value(page: Page, minimum: float) -> float:
    """Wait until the progress bar has at least this value; return its value."""

    async def value() -> float:
        current = await bar_value(page)
        return current if current >= minimum else 0

    reached: float = await wait_until(value)
    return reached


def assert_never_goes_back(renders: list[dict[str, Any]]) -> None:
    """Check that neither the version nor the progress bar has gone back."""
    for field in ("version", "value"):
        values = [state[field] for state in renders]
        assert values == sorted(values), renders


async def test_bar_rises_until_the_job_succeeds(page: Page, stack: Stack) -> None:
    """The button starts a job, and its page shows steps up to *Succeeded*, without errors in the browser."""
    errors = PageErrors(page)
    await page.goto(stack.url)
    await page.get_by_role("button", name="Start a new job").click()
    await expect(page.locator("#status")).to_have_text("Succeeded")
    renders = await get_renders(page)
    assert_never_goes_back(renders)
    values = [state["value"] for state in renders if state["value"]]
    assert values[0] < values[-1] == 100
    await expect(page.locator("#percent")).to_have_text("100 %")
    await expect(page.locator("#result")).to_have_text('"Counted 10 steps"')
    await expect(page).to_have_title("✓ countdown")
    assert re.fullmatch(r".*/jobs/[0-9a-f-]{36}#[\w.-]+", page.url)
    assert errors.messages == []


async def test_all_tabs_show_the_same_states(context: BrowserContext, stack: Stack, report: SendReport) -> None:
    """A reloaded page and a new tab start with the current state, and a tab opened later with the outcome."""
    receipt = await stack.submit(delay_s=3600)
    link = receipt["links"]["page"]
    first, second, third = [await context.new_page() for _ in range(3)]
    await first.goto(link)
    await report(receipt, progress={"current": 20, "total": 100})
    earlier_value = await wait_for_value(first, 20)
    await first.reload()
    assert (await first_render(first))["value"] >= earlier_value
    earlier_value = await bar_value(first)
    await second.goto(link)
    assert (await first_render(second))["value"] >= earlier_value
    for percent in (40, 60, 80):
        await report(receipt, progress={"current": percent, "total": 100})
        for tab in (first, second):
            await wait_for_value(tab, percent)
    await report(receipt, "succeeded", progress={"current": 100, "total": 100})
    for tab in (first, second):
        await expect(tab.locator("#status")).to_have_text("Succeeded")
    by_version = [{state["version"]: state for state in await get_renders(tab)} for tab in (first, second)]
    common = by_version[0].keys() & by_version[1].keys()
    assert len(common) > 1
    assert all(by_version[0][version] == by_version[1][version] for version in common)
    await third.goto(link)
    assert await first_render(third) == {**by_version[0][max(common)], "status": "succeeded", "value": 100}


async def test_failed_job_shows_its_error(page: Page, stack: Stack) -> None:
    """The page shows the error of a failed job; the message names the invalid field."""
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
    await expect(page.locator("#message")).to_have_text(f"Last message: {HTML}")
    await expect(page.locator("#progress-text")).to_have_text("1 of 2 <b>files</b>")
    await expect(page.locator("#error-type")).to_have_text(HTML)
    await expect(page.locator("#error-message")).to_have_text(HTML)
    await expect(page.locator("#result")).to_contain_text("<img src=")
    await expect(page.locator("main :is(img, b)")).to_have_count(0)
    assert errors.messages == []


async def test_page_reconnects_after_the_notifier_is_killed(page: Page, stack: Stack, report: SendReport) -> None:
    """The page shows that it reconnects, then follows the job to its outcome and never goes back."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await report(receipt, progress={"current": 20, "total": 100})
    await wait_for_value(page, 20)
    await stack.kill("notifier")
    await report(receipt, progress={"current": 60, "total": 100})
    await wait_for_value(page, 60)
    await report(receipt, "succeeded", progress={"current": 100, "total": 100})
    await expect(page.locator("#status")).to_have_text("Succeeded")
    await expect(page.locator("#connection")).to_be_hidden()
    assert await page.evaluate("notices") == [True, False]
    renders = await get_renders(page)
    assert_never_goes_back(renders)
    assert renders[-1]["value"] == 100


async def test_notice_explains_a_lost_connection(page: Page, stack: Stack) -> None:
    """The notice says that the page reconnects and shows the last known state."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await first_render(page)
    await page.evaluate("WebSocket = class { close() {} }; dispatchEvent(new Event('online'))")  # never opens
    await expect(page.locator("#connection")).to_be_visible()
    await expect(page.locator("#connection")).to_have_text(LAST_KNOWN_STATE)
    await expect(page.locator("#status")).to_have_text("Queued")


async def test_progress_without_a_total_is_indeterminate(page: Page, stack: Stack, report: SendReport) -> None:
    """The page shows the count and the unit, and an indeterminate bar without a percentage."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await report(receipt, progress={"current": 1234.5, "unit": "files"})
    await expect(page.locator("#progress-text")).to_have_text("1,234.5 files")
    await expect(page.locator("#bar:indeterminate")).to_have_count(1)
    await expect(page.locator("#percent")).to_be_empty()


async def test_elapsed_and_remaining_time_are_shown(page: Page, stack: Stack, report: SendReport) -> None:
    """The page shows the elapsed time of a running job, and the remaining time as soon as it can be estimated."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await report(receipt)
    await expect(page.locator("#elapsed")).to_have_text(re.compile(r"^0:(0[1-9]|[1-5]\d)$"))
    await expect(page.locator("#remaining")).to_be_empty()
    await report(receipt, progress={"current": 1, "total": 10})
    await expect(page.locator("#remaining")).to_have_text(re.compile(r"about \d+:\d\d"))


async def test_position_is_shown_while_a_job_waits(page: Page, stack: Stack) -> None:
    """While no worker takes jobs, the page of a named job says how many wait before it; then it shows the job's end."""
    errors = PageErrors(page)
    with stack.frozen("worker"):
        await stack.submit(payload={"steps": 1})
        receipt = await stack.submit(payload={"steps": 1}, name="Export of March")
        await page.goto(receipt["links"]["page"])
        await expect(page.locator("#outlook")).to_have_text(re.compile(r"About \d+ jobs? before this one · submitted"))
        await expect(page.get_by_role("heading", level=1)).to_have_text("Export of March")
    await expect(page.locator("#status")).to_have_text("Succeeded")
    assert errors.messages == []


async def test_job_is_cancelled_from_its_page(page: Page, stack: Stack) -> None:
    """The cancel button shows that the cancellation is in progress, until the job has ended."""
    receipt = await stack.submit(payload={"steps": 600, "delay_s": 0.1})
    await page.goto(receipt["links"]["page"])
    await expect(page.locator("#status")).to_have_text("Running")
    button = page.get_by_role("button", name="Cancel job")
    await button.evaluate("(button) => { button.click(); window.clicked = [button.textContent, button.ariaDisabled]; }")
    assert await page.evaluate("clicked") == ["Cancelling…", "true"]
    await expect(page.locator("#status")).to_have_text("Cancelled")
    await expect(page.locator("#cancel")).to_be_hidden()


async def test_watch_only_link_is_copied(page: Page, stack: Stack) -> None:
    """The copied link opens the page of the same job, without a cancel button."""
    errors = PageErrors(page)
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await page.get_by_role("button", name="Copy watch-only link").click()
    await expect(page.locator("#shared")).to_have_text("Copied. Anyone with the link can watch, but not cancel.")
    link = await page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{stack.url}/jobs/{receipt['id']}#")
    assert link != receipt["links"]["page"]
    other = await page.context.new_page()
    await other.goto(link)
    await expect(other.locator("#status")).to_have_text("Queued")
    await expect(other.locator("#cancel")).to_have_count(0)
    assert errors.messages == []


async def test_link_can_be_copied_by_hand(page: Page, stack: Stack) -> None:
    """If the page cannot write to the clipboard, it shows the link in a field, selected."""
    await page.add_init_script("navigator.clipboard.writeText = () => Promise.reject(new Error('denied'))")
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await page.get_by_role("button", name="Copy watch-only link").click()
    field = page.get_by_label("Watch-only link", exact=True)
    await expect(field).to_be_focused()
    link = await field.input_value()
    assert await page.evaluate("getSelection().toString()") == link
    assert link.startswith(f"{stack.url}/jobs/{receipt['id']}#")
    await expect(page.locator("#shared")).to_contain_text("Copy this link")


async def test_error_of_the_watch_only_link_is_shown(page: Page, stack: Stack) -> None:
    """If the submitter rejects the request, the page shows the reason and no link."""

    async def reject(route: Route) -> None:
        await route.fulfill(status=429, json={"status": 429, "detail": "Too many requests; try again in 3 s."})

    await page.route("**/token", reject)
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await page.get_by_role("button", name="Copy watch-only link").click()
    await expect(page.locator("#shared")).to_have_text(
        "The link could not be created. Too many requests; try again in 3 s."
    )
    await expect(page.locator("#link")).to_be_hidden()


async def test_page_counts_down_to_the_next_attempt(page: Page, stack: Stack, report: SendReport) -> None:
    """The countdown of a retrying job uses the server's clock, even if the browser's clock is wrong by years."""
    await page.clock.install(time="2001-01-01")
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await report(receipt, "retrying", due_at=str(Timestamp.now().after(50)))

    async def shown_s(most_s: int) -> int | None:
        found = re.search(r"next attempt in (\d+) s", await page.locator("#outlook").text_content() or "")
        return int(found[1]) if found and int(found[1]) <= most_s else None

    before_s = await wait_until(lambda: shown_s(50))
    await page.clock.fast_forward(20_000)
    await wait_until(lambda: shown_s(before_s - 20))


def expired_token(stack: Stack, receipt: dict[str, Any]) -> str:
    """Return an expired token of a job."""
    signer = TokenSigner((stack.folder / "keys" / "token.pem").read_text())
    now = Timestamp.now()
    return signer.sign(
        Grant(job_id=receipt["id"], kind="countdown", submitted_at=now.after(-DAY_S), expires_at=now.after(-3600))
    )


@pytest.mark.parametrize(
    ("token", "heading"),
    [
        (lambda *_: "", "This link is incomplete"),
        (lambda *_: "nonsense", "This link is not valid"),
        (lambda _, receipt: receipt["token"][:60], "This link is not valid"),
        (lambda _, receipt: forge_signature(receipt["token"]), "This link is not valid"),
        (expired_token, "This link has expired"),
    ],
    ids=["missing", "malformed", "truncated", "forged", "expired"],
)
async def test_unusable_link_is_explained(
    page: Page, stack: Stack, token: Callable[[Stack, dict[str, Any]], str], heading: str
) -> None:
    """The page explains why the token cannot be used, and shows no job."""
    errors = PageErrors(page)
    receipt = await stack.submit(delay_s=3600)
    await page.goto(f"{stack.url}/jobs/{receipt['id']}#{token(stack, receipt)}")
    await expect(page.locator("#error-type")).to_have_text(heading)
    await expect(page.locator("#error-message")).not_to_be_empty()
    await expect(page.locator("#status")).to_have_text("No job to show")
    await expect(page.locator("#job")).to_be_hidden()
    await expect(page.locator("#connection")).to_be_hidden()
    assert errors.messages == []


async def test_token_of_another_job_is_rejected(page: Page, stack: Stack) -> None:
    """A link with one job's id and another job's token opens neither job."""
    receipt, other = await stack.submit(delay_s=3600), await stack.submit(delay_s=3600)
    await page.goto(f"{stack.url}/jobs/{other['id']}#{receipt['token']}")
    await expect(page.locator("#error-type")).to_have_text("This link is not valid")
    await expect(page.locator("#cancel")).to_be_hidden()


async def test_unresponsive_notifier_is_shown(page: Page, stack: Stack) -> None:
    """A new page shows that the notifier does not answer yet, and the job as soon as it does."""
    receipt = await stack.submit(delay_s=3600)
    with stack.frozen("notifier"):
        await page.goto(receipt["links"]["page"])
        await expect(page.locator("#status")).to_contain_text("does not answer yet")
    await expect(page.locator("#status")).to_have_text("Queued")


async def test_changed_fragment_opens_the_job(page: Page, stack: Stack) -> None:
    """The page opens the job when a user adds the token to the address, without a reload."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(f"{stack.url}/jobs/{receipt['id']}")
    await expect(page.locator("#error")).to_be_visible()
    await page.evaluate("(token) => { location.hash = token; }", receipt["token"])
    await expect(page.locator("#status")).to_have_text("Queued")
    await expect(page.locator("#outlook")).to_have_text(re.compile("starts at"))
    await expect(page.locator("#error")).to_be_hidden()


async def test_keyboard_starts_a_job(page: Page, stack: Stack) -> None:
    """Tab moves the focus to the name and to the button, which shows it; Enter starts a job."""
    await page.goto(stack.url)
    button = page.get_by_role("button", name="Start a new job")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("Name of the job")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(button).to_be_focused()
    await expect(button).to_have_css("outline-style", "solid")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1, name="countdown")).to_be_visible()
    assert "/jobs/" in page.url


async def test_page_is_accessible(page: Page, stack: Stack, report: SendReport) -> None:
    """Status and progress bar have roles and names, and a screen reader does not read the percentage twice."""
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


async def test_narrow_screen_does_not_scroll_sideways(page: Page, stack: Stack, report: SendReport) -> None:
    """At a width of 360 px both pages fit the screen, however long the texts of a job are."""
    overflows = "document.documentElement.scrollWidth > innerWidth"
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.goto(stack.url)
    assert not await page.evaluate(overflows)
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    long_text = "W" * 120
    progress = {"current": 123_456_789_012, "total": 923_456_789_012, "unit": long_text[:32], "message": long_text}
    error = {"type": long_text, "message": long_text}
    await report(receipt, "failed", progress=progress, result={long_text: long_text}, error=error, kind=long_text)
    await expect(page.locator("#error-type")).to_have_text(long_text)
    assert not await page.evaluate(overflows)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("status", ["queued", "running", "retrying", "failed"])
async def test_text_has_contrast(page: Page, stack: Stack, report: SendReport, scheme: Any, status: str) -> None:
    """In the light and the dark scheme all texts have a contrast of at least 4.5 to 1."""
    await page.emulate_media(color_scheme=scheme)
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await report(receipt, status, progress={"current": 1, "total": 2, "message": "Half"})
    await expect(page.locator("#message")).to_contain_text("Half")
    background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", background))) > 128) == (scheme == "light")
    selectors = ["#kind", "#status", "#percent", "#progress-text", "#message", "dt", "dd", "header a:last-child"]
    ratios = dict(zip(selectors, await page.evaluate(CONTRAST_RATIOS, selectors), strict=True))
    assert min(ratios.values()) >= 4.5, ratios


@pytest.mark.parametrize("path", ["/", "/jobs/x"])
async def test_content_security_policy_is_strict(page: Page, stack: Stack, path: str) -> None:
    """The policy of both pages allows only their own files and connections to the notifier; no page has inline code."""
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
    assert await page.evaluate(FIND_INLINE_CODE) == []
    assert errors.messages == []


async def test_all_modules_are_preloaded(page: Page, stack: Stack) -> None:
    """The HTML of the page names every module, so that the browser loads all of them in parallel."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await expect(page.locator("#status")).to_have_text("Queued")
    named, loaded = await page.evaluate("""() => {
        const named = [...document.querySelectorAll("script, [rel=modulepreload]")].map(({ src, href }) => src || href);
        return [named, performance.getEntriesByType("resource").map(({ name }) => name)];
    }""")
    assert sorted(named) == sorted({name for name in loaded if name.endswith(".js")})


async def test_injected_code_does_not_run(page: Page, stack: Stack) -> None:
    """The policy blocks inline code that is inserted into a page."""
    await page.goto(stack.url)
    blocked = await page.evaluate("""new Promise((resolve) => {
        addEventListener("securitypolicyviolation", ({ effectiveDirective }) => resolve(effectiveDirective));
        document.querySelector("main").innerHTML = '<img src="data:," onerror="document.title = 1">';
        document.querySelector("main").append(Object.assign(document.createElement("script"), { text: "title = 2" }));
    })""")
    assert blocked.startswith("script-src")
    await expect(page).to_have_title("Headway")
