"""The bench's arithmetic; what it measures is asserted nowhere."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bench import meter
from bench.figures import Row, percentile, read, table, write
from bench.worker.figures import COLUMNS, GATE, Gate
from bench.worker.starts import Starts
from bench.worker.systems import BARE, HEADWAY, systems
from dev.environment import ROOT


def rows(ours: list[float], bare: list[float]) -> list[Row]:
    """Make rows of CPU times, round by round."""
    return [
        Row(number, system, "cpu_ms", value)
        for system, measured in ((HEADWAY, ours), (BARE, bare))
        for number, value in enumerate(measured, 1)
    ]


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (95, 4), (100, 4), (0, 1)])
def test_a_percentile_is_one_of_the_values(percent: float, value: float) -> None:
    """It is the smallest value that so many percent do not exceed, in whichever order they come."""
    assert percentile([4, 1, 3, 2], percent) == value


def test_the_table_has_medians_and_ranges() -> None:
    """A cell has the rounds' median and their range, the value when they agree, a dash when nothing was measured."""
    found = table([*rows([30, 10.04, 20], [150, 150, 150]), Row(1, "arq", "rss_mb", 1)], COLUMNS)
    assert found.splitlines() == [
        "| system | CPU a job, ms | RSS idle, MB |",
        "| --- | ---: | ---: |",
        "| Headway | 20.0 (10.0 to 30.0) | - |",
        "| bare SDK loop | 150 | - |",
        "| arq | - | 1.00 |",
    ]


def test_the_gate_compares_medians() -> None:
    """One slow round does not decide, and the limit itself is still within it."""
    gate = Gate.of(rows([4, 4, 99], [2, 2, 2]), HEADWAY, BARE)
    assert (gate.ratio, gate.passed) == (GATE, True)
    assert str(gate).startswith("Gate passed: Headway's worker takes 2.00 times")
    assert not Gate.of(rows([4.1, 4.1, 4.1], [2, 2, 2]), HEADWAY, BARE).passed


def test_raw_rows_can_be_read_again(tmp_path: Path) -> None:
    """What is written as CSV are the rows."""
    path = tmp_path / "results" / "worker.csv"
    write(rows([1.5], [0.125]), path)
    assert path.read_text().splitlines()[:2] == ["round,system,measure,value", "1,Headway,cpu_ms,1.500"]
    assert read(path) == rows([1.5], [0.125])


def test_starts_are_read_as_they_come(tmp_path: Path) -> None:
    """A line that is half written is read once it is whole."""
    path = tmp_path / "starts"
    starts = Starts(path)
    assert starts.count == 0
    path.write_text("1000000 3500000\n2000000 20")
    assert starts.latencies_ms == [2.5]
    with path.open("a") as file:
        file.write("00001\n")
    assert (starts.count, starts.latencies_ms[1]) == (2, 1e-6)


def test_a_process_is_metered_from_outside() -> None:
    """CPU time is what the process itself would say, and shared memory is counted at most once."""
    mine = os.getpid()
    before = time.process_time()
    metered = meter.cpu_s(mine)
    assert before <= metered
    resident, proportional = meter.memory(mine)
    assert 0 < proportional <= resident
    assert mine in meter.tree(os.getppid())


def test_no_two_systems_share_a_queue() -> None:
    """Their workers run side by side."""
    places = [(system.queue, system.database) for system in systems()]
    assert len(set(places)) == len(places)


def test_the_document_has_the_table_of_the_raw_rows() -> None:
    """What docs/performance.md tells is what was measured."""
    assert table(read(ROOT / "bench/results/worker.csv"), COLUMNS) in (ROOT / "docs/performance.md").read_text()
