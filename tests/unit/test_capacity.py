"""The figures of docs/capacity.md are those of the benchmarks, and its example is calculated from them."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median

import pytest

from bench.figures import read_csv, round_medians
from dev.environment import ROOT
from tests.documents import Document

PAGE = Document("docs/capacity.md")
RESULTS = ROOT / "bench/results"
FILES = {"The worker": "worker.csv", "The submitter": "submissions.csv"}
UNITS = {"µs": 1e-6, "ms": 1e-3, "kB": 1e3, "MB": 1e6, "GB": 1e9, "": 1.0}
MAX_DIFFERENCE = 0.25  # from the benchmarks, whose machine is shared
NUMBER = r"(\d[\d,]*(?:\.\d+)?)(?: (µs|ms|kB|MB|GB)\b)?"


def values(text: str) -> list[float]:
    """Return the numbers in a text, each in the unit that the last of them names."""
    found = re.findall(NUMBER, text)
    unit = UNITS[found[-1][1]]
    return [float(number.replace(",", "")) * unit for number, _ in found]


def cost(heading: str, start: str) -> list[float]:
    """Return the figures in the row of a section whose first cell begins with a text."""
    (row,) = [row for row in PAGE.table(heading) if row[0].startswith(start)]
    return values(row[1])


def measured(file: Path, system: str, *measures: str) -> float:
    """Return the sum of the medians of some measures of a system."""
    rows = read_csv(file)
    return sum(median(round_medians(rows, system, measure)) for measure in measures)


@pytest.mark.parametrize(
    ("heading", "start", "systems", "measures", "unit"),
    [
        ("The notifier", "memory of an idle", ("Headway",), ("idle_idle_bytes",), 1.0),
        ("The notifier", "a handshake", ("Headway",), ("idle_upgrade_us", "idle_watch_us"), 1e-6),
        ("The notifier", "a report", ("Headway", "Headway, 10", "Headway, 100"), ("jobs_report_us",), 1e-6),
        ("The notifier", "a delivery", ("Headway",), ("fanout_delivery_us",), 1e-6),
        ("Redis", "CPU of a report", ("Headway", "Headway, 10", "Headway, 100"), ("jobs_redis_us",), 1e-6),
        ("The worker", "CPU of a job", ("Headway",), ("cpu_ms",), 1e-3),
        ("The worker", "memory of the process", ("Headway",), ("rss_mb",), 1e6),
        ("The submitter", "CPU of a submission", ("Headway",), ("cpu_ms",), 1e-3),
    ],
)
def test_costs_are_those_of_the_benchmarks(
    heading: str, start: str, systems: tuple[str, ...], measures: tuple[str, ...], unit: float
) -> None:
    """Each figure that the raw rows contain differs from their median by at most a quarter."""
    file = RESULTS / FILES.get(heading, "notifier.csv")
    names = [name + " per request" if "," in name else name for name in systems]
    expected = [measured(file, name, *measures) * unit for name in names]
    assert cost(heading, start) == pytest.approx(expected, rel=MAX_DIFFERENCE)


@pytest.mark.parametrize("row", PAGE.table("A worked example"), ids=lambda row: row[0])
def test_example_is_calculated(row: list[str]) -> None:
    """Each result is that of the calculation beside it."""
    _, formula, result = row
    expression = re.sub(NUMBER, lambda match: str(values(match[0])[0]), formula).replace("\N{MULTIPLICATION SIGN}", "*")
    assert re.fullmatch(r"[\d.e+*/() -]+", expression)
    first = re.match(NUMBER, result)
    assert first is not None
    assert values(first[0]) == pytest.approx([eval(expression)], rel=0.05)


def test_example_uses_the_costs() -> None:
    """Every cost in the example stands in a table above it."""
    above = set(re.findall(r"[\d.]+", PAGE.text.partition("## A worked example")[0]))
    formulas = " ".join(formula for _, formula, _ in PAGE.table("A worked example"))
    assert {number for number, unit in re.findall(NUMBER, formulas) if unit in ("µs", "ms", "kB")} <= above
