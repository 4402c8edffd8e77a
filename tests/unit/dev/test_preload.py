"""The modules that pages preload."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dev import preload
from services.submitter.assets import Assets

MAX_FIRST_VIEW_BYTES = 60_000  # compressed


@pytest.mark.parametrize("page", preload.PAGES, ids=lambda path: path.name)
def test_pages_preload_all_modules(page: Path) -> None:
    """A page names exactly the modules that it needs; `python -m dev.preload` updates it."""
    html = page.read_text()
    assert preload.update(html) == html


def test_needed_modules_are_found() -> None:
    """They are those that are imported in any form, by others, too, but not those that are loaded on demand."""
    assert preload.IMPORT.findall("""
import { a } from "/assets/a.js";
import {
  b,
} from "./b.js";
export * from "./c.js";
const later = () => import("/assets/later.js");
""") == ["a.js", "b.js", "c.js"]
    needed = preload.needed_modules("dashboard.js")
    assert {"dashboard.js", "api.js", "json.js"} < needed
    assert {"palette.js", "help.js"}.isdisjoint(needed)


def test_first_view_of_the_dashboard_is_small() -> None:
    """The page and all that its HTML names, and thus all that it loads before it shows jobs, is within its limit."""
    files = Assets("http://127.0.0.1:8081").current().files
    html = files["dashboard.html"].body.decode()
    names = ["dashboard.html", *re.findall(r'(?:href|src)="/assets/([\w.-]+)"', html)]
    sizes = {name: len(files[name].compressed) for name in names}
    assert sum(sizes.values()) <= MAX_FIRST_VIEW_BYTES, sizes
