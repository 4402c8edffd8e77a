"""`python -m bench.worker`: rounds over all systems, a table, the raw rows, and a gate that ends with 1 when missed."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from bench.figures import MACHINE, Row, read, table, values, write
from bench.worker.figures import COLUMNS, Gate
from bench.worker.measuring import measure
from bench.worker.stores import stores
from bench.worker.systems import BARE, HEADWAY, System, systems
from dev.environment import ROOT

RESULTS = ROOT / "bench/results/worker.csv"


async def rounds(count: int, chosen: list[System], folder: Path, results: Path) -> list[Row]:
    """Measure all systems, and all over again; what a round has found is written when it is over."""
    rows: list[Row] = []
    async with stores(folder) as running:
        for number in range(1, count + 1):
            print(f"Round {number} of {count}", file=sys.stderr, flush=True)
            found = await measure(chosen, running, folder / f"round-{number}")
            names = [system.name for system in chosen]
            rows += [Row(number, *one) for one in sorted(found, key=lambda one: names.index(one[0]))]
            rows.append(Row(number, MACHINE, "load_average", os.getloadavg()[1]))
            write(rows, results)
    return rows


def main(arguments: list[str]) -> int:
    """Measure as asked, or show what was measured; return 1 when the gate is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.worker", description="Measure the worker beside its peers.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="a system whose name begins so; may be repeated"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of the raw rows")
    parser.add_argument("--folder", type=Path, help="where stores and logs are kept; else they are removed")
    parser.add_argument("--show", action="store_true", help="measure nothing: show the raw rows that there are")
    asked = parser.parse_args(arguments)
    if asked.show:
        return show(read(asked.results))
    names = tuple(name.lower() for name in asked.only or [""])
    chosen = [system for system in systems() if system.name.lower().startswith(names)]
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        rows = asyncio.run(rounds(asked.rounds, chosen, asked.folder or Path(temporary), asked.results))
    return show(rows)


def show(rows: list[Row]) -> int:
    """Print the table, and the gate where both sides of it were measured."""
    print(table(rows, COLUMNS))
    loads = ", ".join(f"{load:.1f}" for load in values(rows, MACHINE, "load_average"))
    print(f"\nThe machine's load average (5 minutes) after each round: {loads}.")
    if not {HEADWAY, BARE} <= {row.system for row in rows}:
        return 0
    gate = Gate.of(rows, HEADWAY, BARE)
    print(gate)
    return 0 if gate.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
