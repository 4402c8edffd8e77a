"""The page of the results: what a run prints, and what docs/performance.md has of it between two marks."""

from __future__ import annotations

from collections.abc import Sequence

from bench.figures import MACHINE, Row, values
from bench.notifier.goals import ratios
from bench.notifier.tables import remarks, tables

BEGIN, END = "<!-- by python -m bench.notifier --show --document -->", "<!-- until here -->"


def page(rows: Sequence[Row]) -> str:
    """Make the Markdown text of a run: tables, what is not in them, and ratios."""
    loads = [f"{load:.1f}" for load in values(rows, MACHINE, "load_average")]
    rounds = "one round" if len(loads) == 1 else f"{len(loads)} rounds"
    told = f"the machine's load average (5 minutes) was {', '.join(loads)} afterwards, the bench's part included."
    parts = [f"### {title}\n\n{text}" for title, text in tables(rows).items()]
    return "\n\n".join([f"In {rounds}; {told}", *parts, *remarks(rows), f"### The ratios\n\n{ratios(rows)}"])


def renewed(document: str, rows: Sequence[Row]) -> str:
    """Return a document with the page of these rows between its marks."""
    before, _, rest = document.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{page(rows)}\n\n{END}{after}"
