"""What is told of a run: a table for each scenario, and which of its runs had flaws."""

from __future__ import annotations

from collections.abc import Sequence

from bench.figures import Row, table
from bench.notifier.measuring import FLAWS
from bench.notifier.scenarios import SCENARIOS
from bench.notifier.systems import NCHAN, NCHAN_LEFT_OUT, ORDER


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """Return the scenarios' tables by their titles, without those that were not measured."""
    known = sorted((row for row in rows if row.system in ORDER), key=lambda row: ORDER.index(row.system))
    measured = {row.measure for row in known}
    chosen = [scenario for scenario in SCENARIOS if measured & set(scenario.measures())]
    return {scenario.title: table(known, scenario.measures()) for scenario in chosen}


def remarks(rows: Sequence[Row]) -> list[str]:
    """Say what is not in the tables."""
    found = [
        f"Round {row.round}: {row.system} had flaws in `{scenario.name}`; that run is left out."
        for scenario in SCENARIOS
        for row in rows
        if row.measure == scenario.measure(FLAWS)
    ]
    left_out = not any(row.system == NCHAN for row in rows)
    return [*found, *([f"{NCHAN_LEFT_OUT}."] if left_out else [])]
