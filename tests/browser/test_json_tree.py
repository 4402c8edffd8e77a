"""JSON as a tree: its numbers, texts and addresses, and how it opens."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.live_site import LiveSite

pytestmark = pytest.mark.browser

SHOW = """async ([text, label]) => {
  const { jsonTree } = await import("/assets/json-tree.js");
  document.body.replaceChildren(jsonTree(text, { label }));
}"""
MARKUP = "<img src=x onerror='window.hacked=1'>"
Show = Callable[..., Awaitable[Locator]]


@pytest.fixture
async def show(site: LiveSite, page: Page) -> Show:
    """Show a JSON text in a page; return the tree."""
    await page.goto(f"{site.origin}/")

    async def show(text: str, label: str = "Result") -> Locator:
        await page.evaluate(SHOW, [text, label])
        return page.get_by_role("group", name=label)

    return show


async def test_values_are_shown_as_they_were_written(show: Show, page: Page) -> None:
    """Numbers keep their digits, texts are never markup, and only addresses of the web are links."""
    text = (
        '{"2": 9007199254740993, "1": 1.10, "big": -1E400, "flag": true, "none": null, "empty": {}, "list": [],'
        f' "<b>key</b>": {json.dumps(MARKUP)}, "lines": "a\\nb\\u0000\\u001b[31m", "half": "\\ud800", "": "no name",'
        ' "page": "https://example.org/a?b=1#c", "script": "javascript:window.hacked=1", "two": "https://a.org b"}'
    )
    tree = await show(text)
    lines = (await tree.inner_text()).splitlines()
    for line in ("2: 9007199254740993", "1: 1.10", "big: -1E400", "flag: true", "none: null", "empty: {}", "list: []"):
        assert line in lines
    assert lines.index("2: 9007199254740993") < lines.index("1: 1.10")
    assert f'<b>key</b>: "{MARKUP}"' in lines
    assert await tree.get_by_text("\\u0000\\u001b[31m").count() == 1
    links = await tree.get_by_role("link").all()
    assert [await link.get_attribute("href") for link in links] == ["https://example.org/a?b=1#c"]
    assert await links[0].get_attribute("rel") == "noopener noreferrer"
    assert not await page.evaluate("window.hacked")
    for scalar in ("0.1000000000000000055511151231257827", "null", '"text"', "{not JSON"):
        await expect(await show(scalar)).to_have_text(scalar)


async def test_deep_and_long_values_open_step_by_step(show: Show, page: Page) -> None:
    """A tree is closed below its second level, long arrays are in groups, and a deep value does no harm."""
    tree = await show(json.dumps({"rows": [{"id": number} for number in range(250)], "deep": {"a": {"b": 1}}}))
    await expect(tree.get_by_text("100 … 199")).to_be_visible()
    await expect(tree.get_by_text("b: 1")).to_be_hidden()
    await tree.get_by_text("200 … 249").click()
    await tree.get_by_text("249: {1}").press("Enter")
    await expect(tree.get_by_text("id: 249")).to_be_visible()
    assert await tree.get_by_text("id: 248").count() == 0  # created when it opens
    depth = 16_000
    deep = await show(f"{'[' * depth}{']' * depth}", "Payload")
    await deep.get_by_text("0: [1]").last.click()
    await expect(deep.get_by_text("0: [1]")).to_have_count(3)


async def test_text_can_be_copied_and_saved(show: Show, page: Page) -> None:
    """The buttons copy and save the text as it is, and a refused copy is announced."""
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text = '{\n  "number": 9007199254740993\n}'
    await show(text, "Payload")
    await page.get_by_role("button", name="Copy payload").click()
    await expect(page.get_by_role("status")).to_have_text("Copied the payload.")
    assert await page.evaluate("navigator.clipboard.readText()") == text
    async with page.expect_download() as downloading:
        await page.get_by_role("button", name="Download payload").click()
    download = await downloading.value
    assert download.suggested_filename == "payload.json"
    assert (await download.path()).read_text() == text
    await page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error()); }")
    await page.get_by_role("button", name="Cop").click()
    await expect(page.get_by_role("status")).to_contain_text("does not allow copying")
