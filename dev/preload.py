"""The modules that the pages preload: all that a page's script imports, so that the browser requests them at once.

`python -m dev.preload` updates the pages. The dashboard also preloads its first view.
"""

from __future__ import annotations

import re
from pathlib import Path

from services.submitter.assets import FOLDERS, PACKAGE

PAGES = (PACKAGE / "dashboard" / "dashboard.html", PACKAGE / "pages" / "job.html")
LINK = '    <link rel="modulepreload" href="/assets/{}">\n'
LINKS = re.compile(r'(?: *<link rel="modulepreload"[^\n]*\n)*(?= *<script type="module" src="/assets/([\w-]+\.js)">)')
IMPORT = re.compile(r'^(?:import|export)\b[^"();]*"(?:/assets/|\./)([\w-]+\.js)";', re.MULTILINE)
FIRST_VIEW = re.compile(r'^  jobs: \(\) => import\("/assets/([\w-]+\.js)"\)', re.MULTILINE)


def update(html: str) -> str:
    """Return a page with links to all modules that its script needs."""
    script = LINKS.search(html)
    if script is None:
        raise ValueError("The page has no script that is a module.")
    links = "".join(map(LINK.format, sorted(needed_modules(script[1]) - {script[1]})))
    return LINKS.sub(lambda _: links, html, count=1)


def needed_modules(name: str) -> set[str]:
    """Return the names of a module, of all that it imports, and of the first view that it shows."""
    found: set[str] = set()
    pending = {name}
    while pending:
        module = pending.pop()
        found.add(module)
        text = find_module(module).read_text()
        pending |= {*IMPORT.findall(text), *FIRST_VIEW.findall(text)} - found
    return found


def find_module(name: str) -> Path:
    """Return the path of a module."""
    return next(path for folder in FOLDERS if (path := folder / name).exists())


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(update(page.read_text()))
