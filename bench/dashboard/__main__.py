"""`python -m bench.dashboard`: measure what the dashboard costs a browser while jobs advance and arrive.

The system is that of `make up`, the browser a real Chromium. The jobs exist only as reports, so that no worker competes
for the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import aiohttp

from bench.dashboard.jobs import RunningJobs, repeat
from bench.dashboard.page import Dashboard, open_dashboard
from dev.reported_jobs import ReportSender
from dev.separate_system import running_system

ROWS = 50
MAX_COST_PERCENT = 5.0  # of the elapsed time, for script, style and layout
MAX_SHIFT = 0.02
READ_PER_S = 0.5  # how often the reader points at another row
SELECTED_EVERY = 5  # of the rows that the reader points at


async def measure_rows(reports: ReportSender, url: str, per_s: float, seconds: int) -> bool:
    """Print what 50 visible jobs that advance cost the page; return whether that is within its limit."""
    jobs = RunningJobs(reports)
    await jobs.start(ROWS)
    async with open_dashboard(url, ROWS) as dashboard:
        await dashboard.wait_for_rows(ROWS)
        await repeat(jobs.advance, per_s, round(5 * per_s))  # the code of the page is compiled meanwhile
        before, rows = await dashboard.cost(), await dashboard.rows()
        await repeat(lambda number: jobs.advance(1000 + number), per_s, round(seconds * per_s))
        cost = (await dashboard.cost()).since(before)
        changed = sum(text != rows.get(job_id) for job_id, text in (await dashboard.rows()).items())
    print(f"{ROWS} live rows, each of them advancing {per_s:g} times a second, during {cost.elapsed:.0f} s:")
    parts = (cost.script, cost.style, cost.layout)
    script, style, layout = (100 * part / cost.elapsed for part in parts)
    print(f"script {script:.1f} %, style {style:.1f} %, layout {layout:.1f} %: {cost.share:.1f} % of the time")
    print(f"all tasks of the page {100 * cost.tasks / cost.elapsed:.1f} %; {changed} rows have changed")
    return changed == ROWS and cost.share <= MAX_COST_PERCENT


async def read(dashboard: Dashboard) -> None:
    """Point at rows one after the other, and select some, until cancelled."""
    number = 0
    while True:
        number += 1
        row = (7 * number) % ROWS
        if number % SELECTED_EVERY == 0:
            await dashboard.select_row(row)
        await dashboard.point_at_row(row)
        await asyncio.sleep(1 / READ_PER_S)


async def measure_arrivals(reports: ReportSender, url: str, per_s: float, count: int) -> bool:
    """Print how much moves while jobs arrive and an operator reads; return whether nothing does."""
    async with open_dashboard(url, ROWS) as dashboard:
        await dashboard.wait_for_rows(ROWS)
        before = await dashboard.cost()
        reading = asyncio.create_task(read(dashboard))
        arriving = RunningJobs(reports)
        await repeat(lambda _number: arriving.start(), per_s, count)
        reading.cancel()
        await asyncio.wait({reading})
        if not reading.cancelled():
            reading.result()
        cost = (await dashboard.cost()).since(before)
        still = await dashboard.stillness()
    print(f"{count:,} jobs arriving at {per_s:g} a second while a reader points at rows and selects some:")
    print(
        f"layout shift {still.shift:.3f}; in {still.moves:,} of {still.frames:,} frames the row under the pointer moved"
    )
    print(f"script, style and layout {cost.share:.1f} % of the time")
    return still.shift <= MAX_SHIFT and still.moves == 0 and still.frames > 0


async def run(arguments: argparse.Namespace) -> bool:
    """Run both measurements; return whether the results are within their limits."""
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        state = Path(temporary)
        async with running_system(state) as url, aiohttp.ClientSession() as session:
            reports = ReportSender(session, state)
            rows = await measure_rows(reports, url, arguments.advances, arguments.seconds)
            arrivals = await measure_arrivals(reports, url, arguments.arrivals, arguments.jobs)
    return rows and arrivals


def main() -> None:
    """Run the benchmark; exit with 1 if a result is above its limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.dashboard", description="Measure the dashboard in Chromium.")
    parser.add_argument("--seconds", type=int, default=30, help="how long jobs advance (default: 30)")
    parser.add_argument("--advances", type=float, default=2, help="of each row, per second (default: 2)")
    parser.add_argument("--jobs", type=int, default=2_000, help="how many jobs arrive (default: 2000)")
    parser.add_argument("--arrivals", type=float, default=50, help="per second (default: 50)")
    sys.exit(0 if asyncio.run(run(parser.parse_args())) else 1)


main()
