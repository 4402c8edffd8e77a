"""What the dashboard makes of texts that attack it: in logs, in schemas and in names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import Page

from dev.environment import ROOT
from tests.browser.live_site import LiveSite
from tests.browser.npm import run_node

DASHBOARD = ROOT / "services" / "submitter" / "dashboard"
MAX_BUSY_S = 1  # a line needs a fiftieth of it
LINE_LENGTH = 65_536  # the longest one that is parsed

# Parse lines, each made of a beginning, a repeated text and an end; print for how many seconds the processor was busy.
PARSE = """
import { parseAnsi, PLAIN } from "./ansi.js";
const output = JSON.parse(process.argv[1]).map(([start, repeated, count, end]) => {
  const line = start + repeated.repeat(count) + end;
  const before = process.cpuUsage();
  const { runs } = parseAnsi(line, PLAIN);
  const { user, system } = process.cpuUsage(before);
  return [runs.map(({ text }) => text).join("").slice(-4), (user + system) / 1e6];
});
console.log(JSON.stringify(output));
"""


def test_no_line_of_a_log_delays_the_page() -> None:
    """A line is parsed in a time that its length limits, whatever its characters are."""
    lines = {
        ("first", "\r", "last"): "last",
        ("", "\r", ""): "",
        ("first", "\x1b[", "last"): "tast",  # its first character ends the last sequence
        ("\x1b[", ";", "mlast"): "last",
        ("\x1b[", "38;5;", "mlast"): "last",
        ("", "\x1b[1;", "last"): "ast",
        ("", "\x1b]", "last"): "last",
        ("\x1b]", "x", ""): "xxxx",
        ("", "\x1b[31m\r", "last"): "last",
    }
    cases = [[start, repeated, LINE_LENGTH // len(repeated), end] for start, repeated, end in lines]
    completed = run_node(DASHBOARD, "--input-type=module", "--eval", PARSE, json.dumps(cases))
    parsed = json.loads(completed.stdout)
    assert [text for text, _ in parsed] == list(lines.values())
    assert max(busy_s for _, busy_s in parsed) < MAX_BUSY_S


@pytest.fixture
async def modules(page: Page, site: LiveSite) -> Page:
    """Return a page that can import the modules, whose time only passes when a test lets it."""
    site.page = "<!doctype html><title>Modules</title><main></main>"
    await page.clock.install()
    await page.goto(f"{site.origin}/embedding")
    return page


SELF = {"$ref": "#/$defs/Self"}


def payload(**properties: Any) -> dict[str, Any]:
    """Return the schema of a payload with these properties."""
    return {"type": "object", "properties": properties}


ODD_SCHEMAS: list[Any] = [
    True,
    "text",
    [],
    {"$ref": 5},
    {**SELF, "$defs": {"Self": SELF}},
    {**SELF, "$defs": {"Self": {"anyOf": [SELF, {"type": "null"}]}}},
    payload(a=SELF) | {"$defs": {"Self": {"oneOf": [SELF]}}},
    payload(a={"anyOf": {}}),
    payload(a={"anyOf": [None]}),
    payload(a=None),
    payload(a={"type": "string"}) | {"required": 5},
    payload(a={"type": "string", "title": {"toString": 1}}),
    payload(a={"type": "string", "default": {"toString": 1}}),
    payload(a={"type": "array", "items": {"enum": [{"toString": 1}]}}),
    payload(a={"type": "array", "items": {"type": "boolean"}}),
    payload(a={"type": "integer", "default": 2**53 + 1}),
    payload(a={"type": "array", "items": {"type": "integer"}, "default": [1, 2**53 + 1]}),
    payload(a={"enum": [1, 2**53 + 1]}),
    payload(a={"type": "string", "default": "two\nlines"}),
    payload(a={"type": "array", "items": {"type": "string"}, "default": ["two\nlines"]}),
    payload(a={"type": "array", "items": {"type": "string"}, "default": [""]}),
]


@pytest.mark.browser
async def test_odd_schemas_have_no_form(modules: Page) -> None:
    """A payload that no form fits, or whose defaults it would change, is edited as JSON.

    A pattern, which may take forever, is left to the server.
    """
    create = """async (schemas) => {
      const { createFields } = await import("/assets/payload-form.js");
      return schemas.map((schema) => createFields(schema)?.element.innerHTML ?? null);
    }"""
    pattern = payload(a={"type": "string", "pattern": "^(x+x+)+y$", "maxLength": 50})
    kept = payload(
        a={"type": "number", "default": 1e300}, b={"enum": ["two\nlines"]}, c={"type": "string", "default": ""}
    )
    *odd, kept_form, form = await modules.evaluate(create, [*ODD_SCHEMAS, kept, pattern])
    assert odd == [None] * len(ODD_SCHEMAS)
    assert 'value="1e+300"' in kept_form
    assert 'maxlength="50"' in form
    assert "pattern" not in form


@pytest.mark.browser
async def test_names_cannot_turn_the_text_around_them(modules: Page) -> None:
    """A name in another direction neither leaves its quotation marks, nor is the text after it part of it."""
    titles = "import('/assets/actions.js').then((m) => m.quotedName({ name: 'a\\u2069\\u202eb\\u2066' }))"
    assert await modules.evaluate(titles) == "“\u2068ab\u2069”"
