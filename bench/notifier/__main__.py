"""`python -m bench.notifier`: rounds over all systems, tables, a plot, the raw rows, and gates that end with 1."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.figures import MACHINE, Row, read, write
from bench.notifier.goals import missed
from bench.notifier.measuring import measure
from bench.notifier.page import page, renewed
from bench.notifier.plot import plot
from bench.notifier.scenarios import SCENARIOS, Scenario
from bench.notifier.servers import bed
from bench.notifier.systems import NCHAN, NCHAN_LEFT_OUT, System, systems
from dev.environment import ROOT

RESULTS = ROOT / "bench/results/notifier.csv"
DOCUMENT, PLOT = ROOT / "docs/performance.md", ROOT / "docs/performance-notifier.svg"
SECONDS = 1.0


async def rounds(asked: argparse.Namespace, scenarios: Sequence[Scenario], chosen: Sequence[System]) -> list[Row]:
    """Measure all systems, and all over again; what a round has found is written when it is over."""
    rows: list[Row] = []
    names = [system.name for system in chosen]
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = asked.folder or Path(temporary)
        async with bed(folder) as ready:
            for number in range(1, asked.rounds + 1):
                print(f"Round {number} of {asked.rounds}", file=sys.stderr, flush=True)
                found = await measure(scenarios, chosen, ready, folder / f"round-{number}", asked.seconds)
                rows += [Row(number, *one) for one in sorted(found, key=lambda one: names.index(one[0]))]
                rows.append(Row(number, MACHINE, "load_average", os.getloadavg()[1]))
                write(rows, asked.results)
    return rows


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read what is asked."""
    parser = argparse.ArgumentParser(prog="python -m bench.notifier", description="Measure the notifier beside peers.")
    begins = "whose name begins so; may be repeated"
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", metavar="NAME", help=f"a system {begins}")
    parser.add_argument("--scenario", action="append", metavar="NAME", help=f"a scenario {begins}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of reports in each turn, 15 at most")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of the raw rows")
    parser.add_argument("--folder", type=Path, help="where Redis and logs are kept; else they are removed")
    parser.add_argument("--show", action="store_true", help="measure nothing: show the raw rows that there are")
    parser.add_argument("--document", action="store_true", help="put what is shown into docs/performance.md, too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Measure as asked, or show what was measured; return 1 when a gate is missed."""
    asked = options(arguments)
    rows = read(asked.results) if asked.show else run(asked)
    if asked.document:
        DOCUMENT.write_text(renewed(DOCUMENT.read_text(), rows))
        PLOT.write_text(plot(rows))
    print(page(rows))
    for goal in missed(rows):
        print(f"Gate missed: {goal.what}.")
    return 1 if missed(rows) else 0


def run(asked: argparse.Namespace) -> list[Row]:
    """Measure as asked."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for the servers, which inherit it
    chosen = [system for system in systems() if _asked(system.name, asked.only)]
    if _asked(NCHAN, asked.only) and NCHAN not in [system.name for system in chosen]:
        print(NCHAN_LEFT_OUT, file=sys.stderr)
    scenarios = [scenario for scenario in SCENARIOS if _asked(scenario.name, asked.scenario)]
    return asyncio.run(rounds(asked, scenarios, chosen))


def _asked(name: str, beginnings: list[str] | None) -> bool:
    return name.lower().startswith(tuple(beginning.lower() for beginning in beginnings or [""]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
