"""The pages of the documentation, and the examples in them that the tests run."""

from __future__ import annotations

import re
from typing import NamedTuple

from dev.environment import ROOT

HEADING_OR_BLOCK = re.compile(
    r"^(?P<level>#+) (?P<title>[^\n]*)$|^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


class Example(NamedTuple):
    """A block of code, and the heading above it."""

    heading: str
    text: str


class Document:
    """A page, such as `docs/write-jobs.md`."""

    def __init__(self, path: str) -> None:
        self.text = (ROOT / path).read_text()

    def examples(self, *languages: str) -> list[Example]:
        """Return the page's examples in some languages, in their order."""
        found, heading = [], ""
        for match in HEADING_OR_BLOCK.finditer(self.text):
            heading = match["title"] or heading
            if match["language"] in languages:
                found.append(Example(heading, match["text"]))
        return found

    def section(self, title: str) -> str:
        """Return the text below a heading, up to the next heading of the same or a higher level."""
        headings = [match for match in HEADING_OR_BLOCK.finditer(self.text) if match["title"]]
        ((level, start),) = [(match["level"], match.end()) for match in headings if match["title"] == title]
        ends = (match.start() for match in headings if match.start() > start and len(match["level"]) <= len(level))
        return self.text[start : next(ends, None)]

    def table(self, title: str) -> list[list[str]]:
        """Return the cells of the first table below a heading, without its head."""
        lines = self.section(title).partition("\n| ")[2].partition("\n\n")[0].splitlines()
        return [re.split(r"\s*\|\s*", line)[1:-1] for line in lines[2:]]
