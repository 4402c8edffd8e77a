"""`<headway-job>` in pages of other origins, as docs/embed.md says: its examples are what is run here."""

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
from tests.browser.conftest import Problems, Report, forged
from tests.browser.embedding import DOC, EVENTS, blocks, fitted, part
from tests.browser.site import Site
from tests.stack import Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

sites, stack, allowed = embedding.sites, embedding.stack, embedding.allowed

HTML = '<img src="x" onerror="document.title = 1">'

# Write down what is told to the document.
LISTEN = """(types) => {
  window.told = [];
  for (const type of types) document.addEventListener(type, ({ detail }) => told.push([type, detail]));
}"""

# Put an element into the page; token and url as attributes.
ADD = """({ token, url, label }) => {
  const job = document.createElement("headway-job");
  if (token !== undefined) job.setAttribute("token", token);
  if (url) job.setAttribute("url", url);
  if (label) job.textContent = label;
  document.body.append(job);
}"""


@pytest.fixture
async def empty(page: Page, stack: Stack, allowed: Site) -> Page:
    """Open a page that has loaded the script, shows no job yet, and writes down the events."""
    allowed.pages["/"] = (
        f'<!doctype html><title>x</title><script type="module" src="{stack.url}/assets/headway.js"></script>'
    )
    await page.goto(allowed.origin)
    await page.evaluate(LISTEN, EVENTS)
    return page


async def told(page: Page, event: str) -> list[Any]:
    """Return what an event has told."""
    return [detail for kind, detail in await page.evaluate("told") if kind == event]


async def test_plain_page_shows_the_job(page: Page, stack: Stack, allowed: Site) -> None:
    """One script tag and one element show a job to its end, under the strict policy that the document names."""
    problems = Problems(page)
    receipt = await stack.submit(payload={"steps": 10, "delay_s": 0.1})
    allowed.pages["/"] = fitted(blocks("html")[0], stack, receipt["token"])
    allowed.policy = fitted(blocks("")[0].strip(), stack)
    await page.goto(allowed.origin)
    await expect(part(page, "status")).to_have_text("Succeeded")
    await expect(part(page, "percent")).to_have_text("100 %")
    await expect(part(page, "amount")).to_be_empty()
    await expect(page.locator("headway-job")).to_have_text(re.compile("Export of March"))
    await expect(part(page, "kind")).to_be_hidden()
    assert problems.found == []


async def test_foreign_page_is_told_so(page: Page, stack: Stack, sites: tuple[Site, Site]) -> None:
    """In a page of an origin that is not allowed the element says what is wrong."""
    receipt = await stack.submit(delay_s=3600)
    sites[1].pages["/"] = fitted(blocks("html")[0], stack, receipt["token"])
    await page.add_init_script(f"({LISTEN})({list(EVENTS)})")
    await page.goto(sites[1].origin)
    await expect(part(page, "error")).to_contain_text("origin", ignore_case=True)
    assert {error["code"] for error in await told(page, "headway-error")} == {"origin_not_allowed"}
    await expect(part(page, "status")).to_be_empty()


async def test_examples_of_events_and_looks_work(empty: Page, stack: Stack, report: Report) -> None:
    """The document's listener hears the end of any job, and its styles reach what they name."""
    receipt = await stack.submit(delay_s=3600)
    await empty.evaluate(blocks("js")[0])
    await empty.add_style_tag(content=blocks("css")[0])
    await empty.evaluate(ADD, {"token": receipt["token"]})
    await report(receipt, progress={"current": 1, "total": 2, "message": "Half"})
    await expect(part(empty, "bar")).to_have_css("background-color", "rgb(102, 51, 153)")
    await expect(part(empty, "track")).to_have_css("height", "16px")
    await expect(part(empty, "message")).to_be_hidden()
    await report(receipt, "succeeded", result="the file")
    await expect(empty.locator("body")).to_contain_text("Ready: the file")
    second = await stack.submit(delay_s=3600)
    await report(second, "failed", error={"type": "Lost", "message": "It is gone."})
    await empty.evaluate("(token) => { document.querySelector('headway-job').token = token; }", second["token"])
    await expect(part(empty, "status")).to_have_css("color", "rgb(220, 20, 60)")


async def test_parts_are_those_of_the_document(empty: Page) -> None:
    """Every part can be styled, and the document names each."""
    await empty.evaluate(ADD, {})
    parts = await empty.evaluate("""[...document.querySelector("headway-job").shadowRoot.querySelectorAll("*")]
        .map((element) => element.getAttribute("part"))""")
    (paragraph,) = re.findall(r"^Parts: (.*?)\. States", DOC, re.DOTALL | re.MULTILINE)
    assert sorted(set(parts) - {"kind", "more"}) == sorted(re.findall(r"`(\w+)`", paragraph))


async def test_events_tell_each_newer_state(empty: Page, stack: Stack) -> None:
    """Changes come in order, the end comes once, and the property is the last of them."""
    receipt = await stack.submit(payload={"steps": 5, "delay_s": 0.05})
    await empty.evaluate(ADD, {"token": receipt["token"]})
    (end,) = await wait_until(lambda: told(empty, "headway-end"))
    versions = [job["version"] for job in await told(empty, "headway-change")]
    assert versions == sorted(set(versions))
    assert end["status"] == "succeeded"
    assert await empty.evaluate("document.querySelector('headway-job').snapshot") == end
    assert await told(empty, "headway-error") == []


async def test_moved_element_keeps_its_watch(empty: Page, stack: Stack, report: Report) -> None:
    """Moving an element opens no second connection and repeats nothing; taken out it closes, put back it goes on."""
    sockets: list[WebSocket] = []
    empty.on("websocket", lambda socket: sockets.append(socket))
    receipt = await stack.submit(delay_s=3600)
    await empty.evaluate(ADD, {"token": receipt["token"]})
    await expect(part(empty, "status")).to_have_text("Queued")
    await empty.evaluate("document.body.prepend(window.job = document.querySelector('headway-job'))")
    await report(receipt)
    await expect(part(empty, "status")).to_have_text("Running")
    assert len(sockets) == 1
    await empty.evaluate("job.remove()")
    await wait_until(lambda: sockets[0].is_closed())
    await report(receipt, progress={"current": 1, "total": 2})
    await empty.evaluate("document.body.append(job)")
    await expect(part(empty, "percent")).to_have_text("50 %")
    assert [job["status"] for job in await told(empty, "headway-change")] == ["queued", "running", "running"]


async def test_element_put_out_and_back_at_once_watches_once(empty: Page, stack: Stack) -> None:
    """Taken out while it still asks where the notifier is, and put back, an element has one watch, and it closes."""
    sockets: list[WebSocket] = []
    empty.on("websocket", lambda socket: sockets.append(socket))
    receipt = await stack.submit(delay_s=3600)
    await empty.evaluate(ADD, {"token": receipt["token"]})
    await empty.evaluate("""async () => {
        const job = document.querySelector("headway-job").cloneNode();
        for (const again of [1, 2, 3]) {
            document.querySelector("headway-job").remove();
            await null;
            document.body.append(job);
            await null;
        }
    }""")
    await expect(part(empty, "status")).to_have_text("Queued")
    await empty.evaluate("document.querySelector('headway-job').remove()")
    await wait_until(lambda: all(socket.is_closed() for socket in sockets))


async def test_another_token_shows_another_job(empty: Page, stack: Stack, report: Report) -> None:
    """A page that sets another token sees the other job, and nothing more of the first."""
    first, second = [await stack.submit(delay_s=3600) for _ in range(2)]
    await empty.evaluate(ADD, {"token": first["token"]})
    await report(first, progress={"current": 1, "total": 2, "message": "First"})
    await expect(part(empty, "message")).to_have_text("First")
    await empty.evaluate("(token) => { document.querySelector('headway-job').token = token; }", second["token"])
    await expect(part(empty, "status")).to_have_text("Queued")
    await expect(part(empty, "message")).to_be_empty()
    await report(first, progress={"current": 2, "total": 2, "message": "More"})
    await report(second)
    await expect(part(empty, "status")).to_have_text("Running")
    assert {job["id"] for job in (await told(empty, "headway-change"))[-2:]} == {second["id"]}


async def test_properties_set_early_are_taken_over(page: Page, stack: Stack, allowed: Site) -> None:
    """A framework may set properties before the script is there."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(allowed.origin)
    names = {"token": receipt["token"], "url": stack.env["LIVE_URL"]}
    await page.evaluate(
        "(names) => document.body.append(Object.assign(document.createElement('headway-job'), names))", names
    )
    await page.add_script_tag(type="module", url=f"{stack.url}/assets/headway.js")
    await expect(part(page, "status")).to_have_text("Queued")
    await expect(page.locator("headway-job")).to_have_attribute("url", names["url"])


async def test_second_script_is_harmless(empty: Page, stack: Stack) -> None:
    """A page that loads the script from two addresses has one element."""
    problems = Problems(empty)
    receipt = await stack.submit(delay_s=3600)
    await empty.evaluate("(url) => import(url)", f"{stack.url}/assets/headway.js?again")
    await empty.evaluate("(url) => import(url)", f"{stack.url}/assets/element.js?again")
    await empty.evaluate(ADD, {"token": receipt["token"]})
    await expect(part(empty, "status")).to_have_text("Queued")
    assert problems.found == []


async def test_button_cancels_the_job(empty: Page, stack: Stack) -> None:
    """Who may cancel has a button, which says that it is at it until the job has ended."""
    receipt = await stack.submit(payload={"steps": 600, "delay_s": 0.1})
    await empty.evaluate(ADD, {"token": receipt["token"]})
    await expect(part(empty, "status")).to_have_text("Running")
    button = empty.get_by_role("button", name="Cancel")
    await button.evaluate("(button) => { button.click(); window.said = [button.textContent, button.disabled]; }")
    assert await empty.evaluate("said") == ["Cancelling…", True]
    await expect(part(empty, "status")).to_have_text("Cancelled")
    await expect(part(empty, "cancel")).to_be_hidden()


async def test_watch_only_token_has_no_button(empty: Page, stack: Stack) -> None:
    """A token that may only watch shows the job and nothing to press."""
    receipt = await stack.submit(delay_s=3600)
    await empty.evaluate(ADD, {"token": signed(stack, receipt, scope=frozenset({"watch"}))})
    await expect(part(empty, "status")).to_have_text("Queued")
    await expect(part(empty, "cancel")).to_be_hidden()


def signed(stack: Stack, receipt: dict[str, Any], **more: Any) -> str:
    """Sign a token for a job."""
    now = Timestamp.now()
    given = {"kind": "countdown", "submitted_at": now.after(-86_400), "expires_at": now.after(86_400), **more}
    return TokenSigner((stack.folder / "keys" / "token.pem").read_text()).sign(Grant(job_id=receipt["id"], **given))


@pytest.mark.parametrize(
    ("code", "token"),
    [
        ("no_token", lambda *_: None),
        ("invalid_token", lambda *_: "nonsense"),
        ("invalid_token", lambda _, receipt: forged(receipt["token"])),
        ("token_expired", lambda stack, receipt: signed(stack, receipt, expires_at=Timestamp.now().after(-3600))),
    ],
    ids=["none", "nonsense", "forged", "expired"],
)
async def test_unusable_token_is_explained(empty: Page, stack: Stack, code: str, token: Any) -> None:
    """Without a usable token the element says why in words, and shows no job; a good one mends it."""
    receipt = await stack.submit(delay_s=3600)
    named = token(stack, receipt)
    await empty.evaluate(ADD, {"token": named} if named else {})
    await expect(part(empty, "error")).not_to_be_empty()
    await expect(empty.get_by_role("alert")).to_be_visible()
    await expect(part(empty, "status")).to_be_empty()
    await expect(empty.get_by_role("progressbar")).to_be_hidden()
    assert (await told(empty, "headway-error"))[-1]["code"] == code
    await empty.evaluate("(token) => { document.querySelector('headway-job').token = token; }", receipt["token"])
    await expect(part(empty, "status")).to_have_text("Queued")
    await expect(part(empty, "error")).to_be_hidden()


async def test_missing_url_is_explained(page: Page, stack: Stack, allowed: Site) -> None:
    """Served by somebody who does not know the notifier, the element asks for its address."""
    folder = ROOT / "clients" / "browser"
    allowed.pages = {f"/{path.name}": path.read_text() for path in folder.glob("*.js")}
    allowed.pages["/live-url.js"] = "nothing to import"
    receipt = await stack.submit(delay_s=3600)
    await page.goto(f"{allowed.origin}/page")
    await page.add_script_tag(type="module", url="/headway.js")
    await page.evaluate(ADD, {"token": receipt["token"]})
    await expect(part(page, "error")).to_contain_text("url")
    await page.evaluate("(url) => { document.querySelector('headway-job').url = url; }", stack.env["LIVE_URL"])
    await expect(part(page, "status")).to_have_text("Queued")


async def test_lost_record_keeps_what_was_seen(empty: Page, stack: Stack, report: Report) -> None:
    """When the server has lost the record, the last state stays, with the reason, until the next report."""
    receipt = await stack.submit(delay_s=3600)
    await empty.evaluate(ADD, {"token": receipt["token"]})
    await report(receipt, progress={"current": 1, "total": 2})
    await expect(part(empty, "percent")).to_have_text("50 %")
    async with Redis.from_url(stack.env["REDIS_URL"]) as redis:
        await redis.delete(f"headway:job:{{{receipt['id']}}}")
    await empty.evaluate("dispatchEvent(new Event('online'))")
    await expect(part(empty, "error")).to_contain_text("lost")
    await expect(part(empty, "percent")).to_have_text("50 %")
    assert (await told(empty, "headway-error"))[-1]["code"] == "unknown"
    await report(receipt, progress={"current": 2, "total": 2})
    await expect(part(empty, "percent")).to_have_text("100 %")
    await expect(part(empty, "error")).to_be_hidden()


async def test_markup_is_text(empty: Page, stack: Stack, report: Report) -> None:
    """Whatever a worker says, markup is shown as text."""
    problems = Problems(empty)
    receipt = await stack.submit(kind=HTML, delay_s=3600)
    await empty.evaluate(ADD, {"token": receipt["token"]})
    progress = {"current": 1, "total": 2, "unit": "<b>files</b>", "message": HTML}
    await report(receipt, progress=progress, kind=HTML)
    await expect(part(empty, "message")).to_have_text(HTML)
    await expect(part(empty, "amount")).to_have_text("1 of 2 <b>files</b>")
    await expect(part(empty, "label")).to_have_text(HTML)
    await report(receipt, "failed", error={"type": HTML, "message": HTML}, kind=HTML)
    await expect(part(empty, "error")).to_have_text(f"{HTML}: {HTML}")
    await expect(empty.locator("headway-job :is(img, b)")).to_have_count(0)
    assert problems.found == []


async def test_what_comes_next_is_told(empty: Page, stack: Stack, report: Report) -> None:
    """A job tells when it starts, when it is tried again, and that its worker is lost."""
    receipt = await stack.submit(delay_s=3600)
    await empty.evaluate(ADD, {"token": receipt["token"]})
    await expect(part(empty, "note")).to_have_text(
        re.compile(r"starts at (.+, )?\d+:")
    )  # with the day, if it is another
    await report(receipt, "retrying", due_at=str(Timestamp.now().after(20)))
    await expect(part(empty, "note")).to_have_text(re.compile(r"next attempt in \d+ s"))
    await report(receipt, lease_until=str(Timestamp.now().after(600)))
    await expect(part(empty, "status")).to_have_text("Running")
    await expect(part(empty, "note")).to_be_empty()
    await report(receipt, lease_until=str(Timestamp.now().after(1)))
    await expect(part(empty, "note")).to_have_text("Worker lost, next attempt soon")
    await expect(empty.locator("headway-job:state(lost)")).to_have_count(1)


async def test_assistive_technology_is_told(empty: Page, stack: Stack, report: Report) -> None:
    """Bar and status have roles and names, and the status is said together with its label."""
    receipt = await stack.submit(delay_s=3600)
    await empty.evaluate(ADD, {"token": receipt["token"], "label": "Export of March"})
    await report(receipt, progress={"current": 4, "total": 10, "unit": "files"})
    await expect(empty.locator("body")).to_match_aria_snapshot("- status: Export of March Running")
    bar = empty.get_by_role("progressbar", name="Export of March")
    await expect(bar).to_have_attribute("aria-valuenow", "40")
    await expect(bar).to_have_attribute("aria-valuetext", "40 %, 4 of 10 files")
    await report(receipt, progress={"current": 5, "unit": "files"})
    await expect(bar).to_have_attribute("aria-valuetext", "5 files")
    assert await bar.get_attribute("aria-valuenow") is None


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
async def test_motion_can_be_reduced(empty: Page, stack: Stack, report: Report, motion: Any) -> None:
    """A bar that nobody can tell the length of moves, unless the reader does not want that."""
    await empty.emulate_media(reduced_motion=motion)
    receipt = await stack.submit(delay_s=3600)
    await empty.evaluate(ADD, {"token": receipt["token"]})
    await report(receipt, progress={"current": 5})
    await expect(empty.locator("headway-job:state(indeterminate)")).to_have_count(1)
    await expect(part(empty, "bar")).to_have_css("animation-name", "none" if motion == "reduce" else "drift")


async def test_nothing_moves_as_text_comes(empty: Page, stack: Stack, report: Report) -> None:
    """An element is as high before its job is known as when it runs, and when it has ended."""
    height = "document.querySelector('headway-job').offsetHeight"
    receipt = await stack.submit(delay_s=3600)
    await empty.evaluate(ADD, {"token": receipt["token"]})
    heights = {await empty.evaluate(height)}
    await report(receipt, progress={"current": 1, "total": 2, "message": "Half"})
    await expect(part(empty, "message")).to_have_text("Half")
    heights.add(await empty.evaluate(height))
    await report(receipt, "succeeded", progress={"current": 2, "total": 2, "message": "Done"})
    await expect(part(empty, "status")).to_have_text("Succeeded")
    heights.add(await empty.evaluate(height))
    assert len(heights) == 1, heights
