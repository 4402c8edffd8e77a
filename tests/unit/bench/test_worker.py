"""The arithmetic of the worker's benchmark. No test asserts what it measures."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bench import meter
from bench.figures import Row, markdown_table, percentile, read_csv, write_csv
from bench.worker import requests, submissions
from bench.worker.__main__ import RESULTS
from bench.worker.figures import COLUMNS, MAX_CPU_RATIO, CpuThreshold
from bench.worker.starts import Starts
from bench.worker.systems import BARE, HEADWAY, systems
from dev.environment import ROOT


def rows(headway: list[float], bare: list[float]) -> list[Row]:
    """Return rows of CPU times per job, one per system and round."""
    return [
        Row(number, system, "cpu_ms", value)
        for system, measured in ((HEADWAY, headway), (BARE, bare))
        for number, value in enumerate(measured, 1)
    ]


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (95, 4), (100, 4), (0, 1)])
def test_a_percentile_is_one_of_the_values(percent: float, value: float) -> None:
    """A percentile is never interpolated, and the order of the values does not matter."""
    assert percentile([4, 1, 3, 2], percent) == value


def test_the_table_has_medians_and_ranges() -> None:
    """A cell has the rounds' median and range, one value if all rounds agree, or a dash if nothing was measured."""
    found = markdown_table([*rows([30, 10.04, 20], [150, 150, 150]), Row(1, "arq", "rss_mb", 1)], COLUMNS)
    assert found.splitlines() == [
        "| system | CPU per job, ms | RSS when idle, MB |",
        "| --- | ---: | ---: |",
        "| Headway | 20.0 (10.0 to 30.0) | - |",
        "| bare SDK loop | 150 | - |",
        "| arq | - | 1.00 |",
    ]


def test_the_threshold_compares_medians() -> None:
    """A single slow round does not matter, and a ratio equal to the bound meets it."""
    threshold = CpuThreshold.from_rows(rows([4, 4, 99], [2, 2, 2]), HEADWAY, BARE)
    assert (threshold.ratio, threshold.met) == (MAX_CPU_RATIO, True)
    assert str(threshold).startswith("Threshold met: Headway's worker uses 2.00 times")
    assert not CpuThreshold.from_rows(rows([4.1, 4.1, 4.1], [2, 2, 2]), HEADWAY, BARE).met


def test_raw_rows_survive_a_round_trip(tmp_path: Path) -> None:
    """The CSV file has all columns, and reading it returns the same rows."""
    path = tmp_path / "results" / "worker.csv"
    write_csv(rows([1.5], [0.125]), path)
    assert path.read_text().splitlines()[:2] == ["round,system,measure,value", "1,Headway,cpu_ms,1.500"]
    assert read_csv(path) == rows([1.5], [0.125])


def test_starts_are_read_incrementally(tmp_path: Path) -> None:
    """An incomplete line is read once it is complete."""
    path = tmp_path / "starts"
    starts = Starts(path)
    assert starts.count == 0
    path.write_text("1000000 3500000\n2000000 20")
    assert starts.latencies_ms == [2.5]
    with path.open("a") as file:
        file.write("00001\n")
    assert (starts.count, starts.latencies_ms[1]) == (2, 1e-6)


def test_a_process_is_measured_from_outside() -> None:
    """The CPU time includes the process's own, and shared memory is counted at most once."""
    pid = os.getpid()
    before = time.process_time()
    assert before <= meter.cpu_s(pid)
    resident, proportional = meter.memory(pid)
    assert 0 < proportional <= resident
    assert pid in meter.process_tree(os.getppid())


def test_no_two_systems_share_a_queue() -> None:
    """The workers run side by side, so each has its own queue or database."""
    queues = [(system.queue, system.database) for system in systems()]
    assert len(set(queues)) == len(queues)


@pytest.mark.parametrize(
    ("results", "columns"),
    [(RESULTS, COLUMNS), (requests.RESULTS, requests.COLUMNS), (submissions.RESULTS, submissions.COLUMNS)],
    ids=["worker", "requests", "submissions"],
)
def test_the_document_has_the_results(results: Path, columns: dict[str, str]) -> None:
    """docs/performance.md has the table of the raw rows."""
    assert markdown_table(read_csv(results), columns) in (ROOT / "docs/performance.md").read_text()
