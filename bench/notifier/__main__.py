"""`python -m bench.notifier`: measure all systems in rounds, and write raw rows, tables and a plot.

The exit code is 1 if a threshold is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.figures import MACHINE, Row, read_csv, write_csv
from bench.notifier.goals import missed
from bench.notifier.measuring import measure
from bench.notifier.page import page, update_document
from bench.notifier.plot import plot
from bench.notifier.scenarios import SCENARIOS, Scenario
from bench.notifier.servers import shared_setup
from bench.notifier.systems import NCHAN, NCHAN_SKIPPED, System, systems
from dev.environment import ROOT

RESULTS = ROOT / "bench/results/notifier.csv"
DOCUMENT, PLOT = ROOT / "docs/performance.md", ROOT / "docs/performance-notifier.svg"
SECONDS = 1.0


async def run_rounds(args: argparse.Namespace, scenarios: Sequence[Scenario], chosen: Sequence[System]) -> list[Row]:
    """Measure all systems once per round; the raw rows are written after each round."""
    rows: list[Row] = []
    names = [system.name for system in chosen]
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = args.folder or Path(temporary)
        async with shared_setup(folder) as setup:
            for number in range(1, args.rounds + 1):
                print(f"Round {number} of {args.rounds}", file=sys.stderr, flush=True)
                measured = await measure(scenarios, chosen, setup, folder / f"round-{number}", args.seconds)
                rows += [Row(number, *each) for each in sorted(measured, key=lambda each: names.index(each[0]))]
                rows.append(Row(number, MACHINE, "load_average", os.getloadavg()[1]))
                write_csv(rows, args.results)
    return rows


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.notifier", description="Compare Headway's notifier with its peers."
    )
    prefix = "whose name starts with NAME (may be repeated)"
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", metavar="NAME", help=f"measure only a system {prefix}")
    parser.add_argument("--scenario", action="append", metavar="NAME", help=f"measure only a scenario {prefix}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="duration of each turn of reports, at most 15")
    parser.add_argument("--results", type=Path, default=RESULTS, help="CSV file of the raw rows")
    parser.add_argument("--folder", type=Path, help="keep Redis data and logs here")
    parser.add_argument("--show", action="store_true", help="show the existing results and measure nothing")
    parser.add_argument("--document", action="store_true", help="also update docs/performance.md and its plot")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark or show its results; return 1 if a threshold is missed."""
    args = parse_arguments(arguments)
    rows = read_csv(args.results) if args.show else run_selected(args)
    if args.document:
        DOCUMENT.write_text(update_document(DOCUMENT.read_text(), rows))
        PLOT.write_text(plot(rows))
    print(page(rows))
    for goal in missed(rows):
        print(f"Threshold missed: {goal.title}.")
    return 1 if missed(rows) else 0


def run_selected(args: argparse.Namespace) -> list[Row]:
    """Measure the selected systems in the selected scenarios."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))  # the servers inherit it
    chosen = [system for system in systems() if _matches(system.name, args.only)]
    if _matches(NCHAN, args.only) and NCHAN not in [system.name for system in chosen]:
        print(NCHAN_SKIPPED, file=sys.stderr)
    scenarios = [scenario for scenario in SCENARIOS if _matches(scenario.name, args.scenario)]
    return asyncio.run(run_rounds(args, scenarios, chosen))


def _matches(name: str, prefixes: list[str] | None) -> bool:
    return name.lower().startswith(tuple(prefix.lower() for prefix in prefixes or [""]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
