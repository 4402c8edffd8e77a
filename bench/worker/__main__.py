"""`python -m bench.worker`: measure all systems in rounds, write the raw rows and print a table.

The exit code is 1 if the threshold is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from bench.figures import MACHINE, Row, markdown_table, read_csv, round_medians, write_csv
from bench.worker.figures import COLUMNS, CpuThreshold
from bench.worker.measuring import measure
from bench.worker.stores import stores
from bench.worker.systems import BARE, HEADWAY, System, systems
from dev.environment import ROOT

RESULTS = ROOT / "bench/results/worker.csv"


async def run_rounds(count: int, chosen: list[System], folder: Path, results: Path) -> list[Row]:
    """Measure all systems once per round; the raw rows are written after each round."""
    rows: list[Row] = []
    async with stores(folder) as running:
        for number in range(1, count + 1):
            print(f"Round {number} of {count}", file=sys.stderr, flush=True)
            measured = await measure(chosen, running, folder / f"round-{number}")
            names = [system.name for system in chosen]
            rows += [Row(number, *each) for each in sorted(measured, key=lambda each: names.index(each[0]))]
            rows.append(Row(number, MACHINE, "load_average", os.getloadavg()[1]))
            write_csv(rows, results)
    return rows


def main(arguments: list[str]) -> int:
    """Run the benchmark or show its results; return 1 if the threshold is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.worker", description="Compare Headway's worker with its peers."
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="measure only a system whose name starts with NAME (may be repeated)",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="CSV file of the raw rows")
    parser.add_argument("--folder", type=Path, help="keep the stores' data and logs here")
    parser.add_argument("--show", action="store_true", help="show the existing results and measure nothing")
    args = parser.parse_args(arguments)
    if args.show:
        return show(read_csv(args.results))
    names = tuple(name.lower() for name in args.only or [""])
    chosen = [system for system in systems() if system.name.lower().startswith(names)]
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        rows = asyncio.run(run_rounds(args.rounds, chosen, args.folder or Path(temporary), args.results))
    return show(rows)


def show(rows: list[Row]) -> int:
    """Print the table and, if both systems were measured, the CPU threshold; return the exit code."""
    print(markdown_table(rows, COLUMNS))
    loads = ", ".join(f"{load:.1f}" for load in round_medians(rows, MACHINE, "load_average"))
    print(f"\nThe machine's load average (5 minutes) after each round: {loads}.")
    if not {HEADWAY, BARE} <= {row.system for row in rows}:
        return 0
    threshold = CpuThreshold.from_rows(rows, HEADWAY, BARE)
    print(threshold)
    return 0 if threshold.met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
