"""The figures of every bench: from what was measured in each round to raw rows, and to a table."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

MACHINE = "machine"  # what is measured of no system


class Row(NamedTuple):
    """One measured value."""

    round: int
    system: str
    measure: str
    value: float


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def turns(rows: Iterable[Row], system: str, measure: str) -> dict[int, list[float]]:
    """Return what was measured in each round, in order."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if (row.system, row.measure) == (system, measure):
            found.setdefault(row.round, []).append(row.value)
    return found


def values(rows: Iterable[Row], system: str, measure: str) -> list[float]:
    """Return each round's figure, which is the median of its turns."""
    return [median(measured) for measured in turns(rows, system, measure).values()]


def table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Make a Markdown table of some measures, with their titles: the rounds' median and, in brackets, their range."""
    systems = list(dict.fromkeys(row.system for row in rows if row.measure in columns))
    used = [measure for measure in columns if any(row.measure == measure for row in rows)]
    lines = [["system", *(columns[measure] for measure in used)], ["---", *("---:" for _ in used)]]
    lines += [[system, *(_cell(values(rows, system, measure)) for measure in used)] for system in systems]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(measured: Sequence[float]) -> str:
    if not measured:
        return "-"
    middle, least, most = (short(value) for value in (median(measured), min(measured), max(measured)))
    return middle if least == most else f"{middle} ({least} to {most})"


def short(value: float) -> str:
    """Write a value with the digits that mean something."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def write(rows: Iterable[Row], path: Path) -> None:
    """Write the raw rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows((*row[:-1], f"{row.value:.3f}") for row in rows)


def read(path: Path) -> list[Row]:
    """Read raw rows again."""
    with path.open(newline="") as file:
        return [
            Row(int(row["round"]), row["system"], row["measure"], float(row["value"])) for row in csv.DictReader(file)
        ]
