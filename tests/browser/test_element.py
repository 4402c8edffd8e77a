"""`<headway-job>` in pages of other origins. The tests run the examples of docs/show-progress.md."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.async_api import Page, WebSocket, expect
from redis.asyncio import Redis

from dev.environment import ROOT
from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner
from tests.browser import embedding
from tests.browser.conftest import PageErrors, SendReport, forge_signature
from tests.browser.embedding import DOCUMENT, EVENTS, code_blocks, fill_in, part
from tests.browser.fake_site import FakeSite
from tests.documents import Document
from tests.stack import Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

sites, stack, allowed_site = embedding.sites, embedding.stack, embedding.allowed_site

TROUBLESHOOTING = Document("docs/troubleshooting.md")
HTML = '<img src="x" onerror="document.title = 1">'

# Record the events that reach the document.
LISTEN = """(types) => {
  window.received = [];
  for (const type of types) document.addEventListener(type, ({ detail }) => received.push([type, detail]));
}"""

# Append an element to the page, with token and url as attributes.
ADD = """({ token, url, label }) => {
  const job = document.createElement("headway-job");
  if (token !== undefined) job.setAttribute("token", token);
  if (url) job.setAttribute("url", url);
  if (label) job.textContent = label;
  document.body.append(job);
}"""


@pytest.fixture
async def empty_page(page: Page, stack: Stack, allowed_site: FakeSite) -> Page:
    """Open a page that has loaded the script, contains no element yet, and records the events."""
    allowed_site.pages["/"] = (
        f'<!doctype html><title>x</title><script type="module" src="{stack.url}/assets/headway.js"></script>'
    )
    await page.goto(allowed_site.origin)
    await page.evaluate(LISTEN, EVENTS)
    return page


async def received(page: Page, event: str) -> list[Any]:
    """Return the details of the received events of a type."""
    return [detail for type_, detail in await page.evaluate("received") if type_ == event]


async def test_plain_page_shows_the_job(page: Page, stack: Stack, allowed_site: FakeSite) -> None:
    """One script tag and one element show a job to its end, under the strict policy of the document."""
    errors = PageErrors(page)
    receipt = await stack.submit(payload={"steps": 10, "delay_s": 0.1})
    allowed_site.pages["/"] = fill_in(code_blocks("html")[0], stack, receipt["token"])
    allowed_site.content_security_policy = fill_in(code_blocks("")[0].strip(), stack)
    await page.goto(allowed_site.origin)
    await expect(part(page, "status")).to_have_text("Succeeded")
    await expect(part(page, "percent")).to_have_text("100 %")
    await expect(part(page, "amount")).to_be_empty()
    await expect(page.locator("headway-job")).to_have_text(re.compile("Export of March"))
    await expect(part(page, "kind")).to_be_hidden()
    assert errors.messages == []


async def test_page_of_another_origin_shows_an_error(
    page: Page, stack: Stack, sites: tuple[FakeSite, FakeSite]
) -> None:
    """In a page whose origin is not allowed, the element shows the message of docs/troubleshooting.md."""
    receipt = await stack.submit(delay_s=3600)
    sites[1].pages["/"] = fill_in(code_blocks("html")[0], stack, receipt["token"])
    await page.add_init_script(f"({LISTEN})({list(EVENTS)})")
    await page.goto(sites[1].origin)
    message = dict(TROUBLESHOOTING.examples("text"))["The origin is not allowed"].strip()
    message = message.replace("http://127.0.0.1:8081", stack.env["LIVE_URL"])
    message = message.replace("http://localhost:8500", sites[1].origin)
    await expect(part(page, "error")).to_have_text(message)
    assert {error["code"] for error in await received(page, "headway-error")} == {"origin_not_allowed"}
    await expect(part(page, "status")).to_be_empty()


async def test_examples_of_events_and_styles_work(empty_page: Page, stack: Stack, report: SendReport) -> None:
    """The document's listener receives the end of any job, and its styles apply to the parts that they name."""
    receipt = await stack.submit(delay_s=3600)
    await empty_page.evaluate(code_blocks("js")[0])
    await empty_page.add_style_tag(content=code_blocks("css")[0])
    await empty_page.evaluate(ADD, {"token": receipt["token"]})
    await report(receipt, progress={"current": 1, "total": 2, "message": "Half"})
    await expect(part(empty_page, "bar")).to_have_css("background-color", "rgb(102, 51, 153)")
    await expect(part(empty_page, "track")).to_have_css("height", "16px")
    await expect(part(empty_page, "message")).to_be_hidden()
    await report(receipt, "succeeded", result="the file")
    await expect(empty_page.locator("body")).to_contain_text("Ready: the file")
    second = await stack.submit(delay_s=3600)
    await report(second, "failed", error={"type": "Lost", "message": "It is gone."})
    await empty_page.evaluate("(token) => { document.querySelector('headway-job').token = token; }", second["token"])
    await expect(part(empty_page, "status")).to_have_css("color", "rgb(220, 20, 60)")


async def test_parts_are_documented(empty_page: Page) -> None:
    """The document lists every part that can be styled."""
    await empty_page.evaluate(ADD, {})
    parts = await empty_page.evaluate("""[...document.querySelector("headway-job").shadowRoot.querySelectorAll("*")]
        .map((element) => element.getAttribute("part"))""")
    (paragraph,) = re.findall(r"^Parts: (.*?)\. States", DOCUMENT.text, re.DOTALL | re.MULTILINE)
    assert sorted(set(parts) - {"kind", "more"}) == sorted(re.findall(r"`(\w+)`", paragraph))


async def test_events_report_each_newer_snapshot(empty_page: Page, stack: Stack) -> None:
    """`headway-change` is fired in order, `headway-end` once, and the property has the last snapshot."""
    receipt = await stack.submit(payload={"steps": 5, "delay_s": 0.05})
    await empty_page.evaluate(ADD, {"token": receipt["token"]})
    (last,) = await wait_until(lambda: received(empty_page, "headway-end"))
    versions = [job["version"] for job in await received(empty_page, "headway-change")]
    assert versions == sorted(set(versions))
    assert last["status"] == "succeeded"
    assert await empty_page.evaluate("document.querySelector('headway-job').snapshot") == last
    assert await received(empty_page, "headway-error") == []


async def test_moved_element_keeps_its_watch(empty_page: Page, stack: Stack, report: SendReport) -> None:
    """Moving an element keeps its watch; removing it closes the watch, and inserting it again starts one."""
    sockets: list[WebSocket] = []
    empty_page.on("websocket", lambda socket: sockets.append(socket))
    receipt = await stack.submit_recorded()
    await empty_page.evaluate(ADD, {"token": receipt["token"]})
    await expect(part(empty_page, "status")).to_have_text("Queued")
    await empty_page.evaluate("document.body.prepend(window.job = document.querySelector('headway-job'))")
    await report(receipt)
    await expect(part(empty_page, "status")).to_have_text("Running")
    assert len(sockets) == 1
    await empty_page.evaluate("job.remove()")
    await wait_until(lambda: sockets[0].is_closed())
    await report(receipt, progress={"current": 1, "total": 2})
    await empty_page.evaluate("document.body.append(job)")
    await expect(part(empty_page, "percent")).to_have_text("50 %")
    assert [job["status"] for job in await received(empty_page, "headway-change")] == ["queued", "running", "running"]


async def test_element_removed_and_inserted_at_once_has_one_watch(empty_page: Page, stack: Stack) -> None:
    """An element removed and inserted while it loads the notifier's URL has one watch, which closes with it."""
    sockets: list[WebSocket] = []
    empty_page.on("websocket", lambda socket: sockets.append(socket))
    receipt = await stack.submit(delay_s=3600)
    await empty_page.evaluate(ADD, {"token": receipt["token"]})
    await empty_page.evaluate("""async () => {
        const job = document.querySelector("headway-job").cloneNode();
        for (const round of [1, 2, 3]) {
            document.querySelector("headway-job").remove();
            await null;
            document.body.append(job);
            await null;
        }
    }""")
    await expect(part(empty_page, "status")).to_have_text("Queued")
    await empty_page.evaluate("document.querySelector('headway-job').remove()")
    await wait_until(lambda: all(socket.is_closed() for socket in sockets))


async def test_another_token_shows_another_job(empty_page: Page, stack: Stack, report: SendReport) -> None:
    """After another token is set, the element shows its job and nothing more of the first."""
    first, second = [await stack.submit(delay_s=3600) for _ in range(2)]
    await empty_page.evaluate(ADD, {"token": first["token"]})
    await report(first, progress={"current": 1, "total": 2, "message": "First"})
    await expect(part(empty_page, "message")).to_have_text("First")
    await empty_page.evaluate("(token) => { document.querySelector('headway-job').token = token; }", second["token"])
    await expect(part(empty_page, "status")).to_have_text("Queued")
    await expect(part(empty_page, "message")).to_be_empty()
    await report(first, progress={"current": 2, "total": 2, "message": "More"})
    await report(second)
    await expect(part(empty_page, "status")).to_have_text("Running")
    assert {job["id"] for job in (await received(empty_page, "headway-change"))[-2:]} == {second["id"]}


async def test_properties_set_before_the_definition_apply(page: Page, stack: Stack, allowed_site: FakeSite) -> None:
    """A framework may set properties before the script is loaded."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(allowed_site.origin)
    names = {"token": receipt["token"], "url": stack.env["LIVE_URL"]}
    await page.evaluate(
        "(names) => document.body.append(Object.assign(document.createElement('headway-job'), names))", names
    )
    await page.add_script_tag(type="module", url=f"{stack.url}/assets/headway.js")
    await expect(part(page, "status")).to_have_text("Queued")
    await expect(page.locator("headway-job")).to_have_attribute("url", names["url"])


async def test_second_script_is_harmless(empty_page: Page, stack: Stack) -> None:
    """A page that loads the script from two URLs defines one element."""
    errors = PageErrors(empty_page)
    receipt = await stack.submit(delay_s=3600)
    await empty_page.evaluate("(url) => import(url)", f"{stack.url}/assets/headway.js?again")
    await empty_page.evaluate("(url) => import(url)", f"{stack.url}/assets/element.js?again")
    await empty_page.evaluate(ADD, {"token": receipt["token"]})
    await expect(part(empty_page, "status")).to_have_text("Queued")
    assert errors.messages == []


async def test_button_cancels_the_job(empty_page: Page, stack: Stack) -> None:
    """If the token allows it, the element has a button, which shows that the cancellation is in progress."""
    receipt = await stack.submit(payload={"steps": 600, "delay_s": 0.1})
    await empty_page.evaluate(ADD, {"token": receipt["token"]})
    await expect(part(empty_page, "status")).to_have_text("Running")
    button = empty_page.get_by_role("button", name="Cancel")
    await button.evaluate(
        "(button) => { button.click(); window.buttonState = [button.textContent, button.ariaDisabled]; }"
    )
    assert await empty_page.evaluate("buttonState") == ["Cancelling…", "true"]
    await expect(part(empty_page, "status")).to_have_text("Cancelled")
    await expect(part(empty_page, "cancel")).to_be_hidden()


async def test_watch_only_token_has_no_button(empty_page: Page, stack: Stack) -> None:
    """With a watch-only token the element shows the job without a button."""
    receipt = await stack.submit(delay_s=3600)
    await empty_page.evaluate(ADD, {"token": sign_token(stack, receipt, scope=frozenset({"watch"}))})
    await expect(part(empty_page, "status")).to_have_text("Queued")
    await expect(part(empty_page, "cancel")).to_be_hidden()


def sign_token(stack: Stack, receipt: dict[str, Any], **more: Any) -> str:
    """Sign a token for a job."""
    now = Timestamp.now()
    claims = {"kind": "countdown", "submitted_at": now.after(-86_400), "expires_at": now.after(86_400), **more}
    return TokenSigner((stack.folder / "keys" / "token.pem").read_text()).sign(Grant(job_id=receipt["id"], **claims))


@pytest.mark.parametrize(
    ("code", "token"),
    [
        ("no_token", lambda *_: None),
        ("invalid_token", lambda *_: "nonsense"),
        ("invalid_token", lambda _, receipt: forge_signature(receipt["token"])),
        ("token_expired", lambda stack, receipt: sign_token(stack, receipt, expires_at=Timestamp.now().after(-3600))),
    ],
    ids=["missing", "nonsense", "forged", "expired"],
)
async def test_unusable_token_is_explained(empty_page: Page, stack: Stack, code: str, token: Any) -> None:
    """With an unusable token the element explains why and shows no job; a valid token replaces the error."""
    receipt = await stack.submit(delay_s=3600)
    value = token(stack, receipt)
    await empty_page.evaluate(ADD, {"token": value} if value else {})
    await expect(part(empty_page, "error")).not_to_be_empty()
    await expect(empty_page.get_by_role("alert")).to_be_visible()
    await expect(part(empty_page, "status")).to_be_empty()
    await expect(empty_page.get_by_role("progressbar")).to_be_hidden()
    assert (await received(empty_page, "headway-error"))[-1]["code"] == code
    await empty_page.evaluate("(token) => { document.querySelector('headway-job').token = token; }", receipt["token"])
    await expect(part(empty_page, "status")).to_have_text("Queued")
    await expect(part(empty_page, "error")).to_be_hidden()


async def test_missing_url_is_explained(page: Page, stack: Stack, allowed_site: FakeSite) -> None:
    """If a site without a submitter serves the script, the element asks for the notifier's URL."""
    folder = ROOT / "clients" / "browser"
    allowed_site.pages = {f"/{path.name}": path.read_text() for path in folder.glob("*.js")}
    receipt = await stack.submit(delay_s=3600)
    await page.goto(f"{allowed_site.origin}/page")
    await page.add_script_tag(type="module", url="/headway.js")
    await page.evaluate(ADD, {"token": receipt["token"]})
    await expect(part(page, "error")).to_contain_text("url")
    await page.evaluate("(url) => { document.querySelector('headway-job').url = url; }", stack.env["LIVE_URL"])
    await expect(part(page, "status")).to_have_text("Queued")


async def test_lost_record_keeps_the_last_snapshot(empty_page: Page, stack: Stack, report: SendReport) -> None:
    """If the server has lost the record, the last snapshot stays visible with an error until the next report."""
    receipt = await stack.submit(delay_s=3600)
    await empty_page.evaluate(ADD, {"token": receipt["token"]})
    await report(receipt, progress={"current": 1, "total": 2})
    await expect(part(empty_page, "percent")).to_have_text("50 %")
    async with Redis.from_url(stack.env["REDIS_URL"]) as redis:
        await redis.delete(f"headway:job:{{{receipt['id']}}}")
    await empty_page.evaluate("dispatchEvent(new Event('online'))")
    await expect(part(empty_page, "error")).to_contain_text("lost")
    await expect(part(empty_page, "percent")).to_have_text("50 %")
    assert (await received(empty_page, "headway-error"))[-1]["code"] == "unknown"
    await report(receipt, progress={"current": 2, "total": 2})
    await expect(part(empty_page, "percent")).to_have_text("100 %")
    await expect(part(empty_page, "error")).to_be_hidden()


async def test_markup_is_shown_as_text(empty_page: Page, stack: Stack, report: SendReport) -> None:
    """Markup in any text of a worker is shown as text."""
    errors = PageErrors(empty_page)
    receipt = await stack.submit(kind=HTML, delay_s=3600)
    await empty_page.evaluate(ADD, {"token": receipt["token"]})
    progress = {"current": 1, "total": 2, "unit": "<b>files</b>", "message": HTML}
    await report(receipt, progress=progress, kind=HTML)
    await expect(part(empty_page, "message")).to_have_text(HTML)
    await expect(part(empty_page, "amount")).to_have_text("1 of 2 <b>files</b>")
    await expect(part(empty_page, "label")).to_have_text(HTML)
    await report(receipt, "failed", error={"type": HTML, "message": HTML}, kind=HTML)
    await expect(part(empty_page, "error")).to_have_text(f"{HTML}: {HTML}")
    await expect(empty_page.locator("headway-job :is(img, b)")).to_have_count(0)
    assert errors.messages == []


async def test_next_step_is_shown(empty_page: Page, stack: Stack, report: SendReport) -> None:
    """The element shows when a job starts, when it is retried, and that its worker is lost."""
    receipt = await stack.submit(delay_s=3600)
    await empty_page.evaluate(ADD, {"token": receipt["token"]})
    await expect(part(empty_page, "note")).to_have_text(
        re.compile(r"starts at (.+, )?\d+:")
    )  # with a date unless it is today
    await report(receipt, "retrying", due_at=str(Timestamp.now().after(20)))
    await expect(part(empty_page, "note")).to_have_text(re.compile(r"next attempt in \d+ s"))
    await report(receipt, lease_until=str(Timestamp.now().after(600)))
    await expect(part(empty_page, "status")).to_have_text("Running")
    await expect(part(empty_page, "note")).to_be_empty()
    await report(receipt, lease_until=str(Timestamp.now().after(1)))
    await expect(part(empty_page, "note")).to_have_text("Worker lost, next attempt soon")
    await expect(empty_page.locator("headway-job:state(lost)")).to_have_count(1)


async def test_element_is_accessible(empty_page: Page, stack: Stack, report: SendReport) -> None:
    """Bar and status have roles and names, and the status is announced together with the label."""
    receipt = await stack.submit(delay_s=3600)
    await empty_page.evaluate(ADD, {"token": receipt["token"], "label": "Export of March"})
    await report(receipt, progress={"current": 4, "total": 10, "unit": "files"})
    await expect(empty_page.locator("body")).to_match_aria_snapshot("- status: Export of March Running")
    bar = empty_page.get_by_role("progressbar", name="Export of March")
    await expect(bar).to_have_attribute("aria-valuenow", "40")
    await expect(bar).to_have_attribute("aria-valuetext", "40 %, 4 of 10 files")
    await report(receipt, progress={"current": 5, "unit": "files"})
    await expect(bar).to_have_attribute("aria-valuetext", "5 files")
    assert await bar.get_attribute("aria-valuenow") is None


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
async def test_motion_can_be_reduced(empty_page: Page, stack: Stack, report: SendReport, motion: Any) -> None:
    """An indeterminate bar is animated unless the user prefers reduced motion."""
    await empty_page.emulate_media(reduced_motion=motion)
    receipt = await stack.submit(delay_s=3600)
    await empty_page.evaluate(ADD, {"token": receipt["token"]})
    await report(receipt, progress={"current": 5})
    await expect(empty_page.locator("headway-job:state(indeterminate)")).to_have_count(1)
    await expect(part(empty_page, "bar")).to_have_css("animation-name", "none" if motion == "reduce" else "drift")


async def test_layout_does_not_shift(empty_page: Page, stack: Stack, report: SendReport) -> None:
    """An element has the same height before the first snapshot, while the job runs, and after its end."""
    height = "document.querySelector('headway-job').offsetHeight"
    receipt = await stack.submit(delay_s=3600)
    await empty_page.evaluate(ADD, {"token": receipt["token"]})
    heights = {await empty_page.evaluate(height)}
    await report(receipt, progress={"current": 1, "total": 2, "message": "Half"})
    await expect(part(empty_page, "message")).to_have_text("Half")
    heights.add(await empty_page.evaluate(height))
    await report(receipt, "succeeded", progress={"current": 2, "total": 2, "message": "Done"})
    await expect(part(empty_page, "status")).to_have_text("Succeeded")
    heights.add(await empty_page.evaluate(height))
    assert len(heights) == 1, heights
