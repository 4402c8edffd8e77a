"""The tables of a run, and the remarks on what they leave out."""

from __future__ import annotations

from collections.abc import Sequence

from bench.figures import Row, markdown_table
from bench.notifier.measuring import FLAWS
from bench.notifier.scenarios import SCENARIOS
from bench.notifier.systems import NCHAN, NCHAN_SKIPPED, ORDER


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """Return title -> table of each scenario that was measured."""
    known = sorted((row for row in rows if row.system in ORDER), key=lambda row: ORDER.index(row.system))
    measured = {row.measure for row in known}
    chosen = [scenario for scenario in SCENARIOS if measured & set(scenario.column_titles())]
    return {scenario.title: markdown_table(known, scenario.column_titles()) for scenario in chosen}


def remarks(rows: Sequence[Row]) -> list[str]:
    """Return sentences on the runs and systems that are missing in the tables."""
    flawed = [
        f"Round {row.round}: {row.system} had an invalid turn in `{scenario.name}` and is left out."
        for scenario in SCENARIOS
        for row in rows
        if row.measure == scenario.measure(FLAWS)
    ]
    skipped = not any(row.system == NCHAN for row in rows)
    return [*flawed, *([f"{NCHAN_SKIPPED}."] if skipped else [])]
