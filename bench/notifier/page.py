"""The results as Markdown, for standard output and for docs/performance.md, which has them between two marks."""

from __future__ import annotations

from collections.abc import Sequence

from bench.figures import MACHINE, Row, round_medians
from bench.notifier.goals import ratios
from bench.notifier.tables import remarks, tables

BEGIN, END = "<!-- by python -m bench.notifier --show --document -->", "<!-- until here -->"


def page(rows: Sequence[Row]) -> str:
    """Format the results: tables, remarks and ratios."""
    loads = [f"{load:.1f}" for load in round_medians(rows, MACHINE, "load_average")]
    rounds = "one round" if len(loads) == 1 else f"{len(loads)} rounds"
    load = f"the machine's 5-minute load average was {', '.join(loads)} afterwards, including the benchmark itself."
    parts = [f"### {title}\n\n{text}" for title, text in tables(rows).items()]
    return "\n\n".join([f"Measured in {rounds}; {load}", *parts, *remarks(rows), f"### Ratios\n\n{ratios(rows)}"])


def update_document(document: str, rows: Sequence[Row]) -> str:
    """Return the document with these results between its marks."""
    before, _, rest = document.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{page(rows)}\n\n{END}{after}"
