"""`python -m bench.worker.submissions`: the CPU time of a submission, and how soon its job starts on an idle system.

With `--before FOLDER`, the submitter of another version, checked out there, runs beside this one, and they take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench import meter
from bench.figures import Row, markdown_table, percentile, write_csv
from bench.processes import Process
from bench.worker.clients import Client
from bench.worker.stores import Stores, stores
from bench.worker.subject import Subject
from bench.worker.systems import HEADWAY, PYTHON, System, systems
from dev.environment import LOCAL, ROOT, service, wait_until_ready

RESULTS = ROOT / "bench/results/submissions.csv"
BEFORE = "the version before"
FIRST_PORT = 21_710
PORTION, PORTIONS = 25, 4  # submissions in a turn, turns in a round
SINGLE_JOBS, GAP_S = 5, (0.3, 0.6)  # in a round

COLUMNS = {
    "cpu_ms": "CPU per submission, ms",
    "start_p50_ms": "start when idle, p50, ms",
    "start_p95_ms": "p95, ms",
}


class Submitter:
    """A running submitter and its client."""

    def __init__(self, pid: int, client: Client) -> None:
        self._pid = pid
        self._client = client

    async def submit(self, count: int) -> float:
        """Submit jobs, one after the other; return the CPU time in seconds that the submitter has used."""
        before_s = meter.cpu_s(self._pid)
        await self._client.enqueue("noop", count)
        return meter.cpu_s(self._pid) - before_s


@asynccontextmanager
async def submitters(
    checkouts: dict[str, Path], system: System, running: Stores, folder: Path
) -> AsyncIterator[dict[str, Submitter]]:
    """Run a submitter of each checkout."""
    async with AsyncExitStack() as stack:
        found = {}
        for number, (name, checkout) in enumerate(checkouts.items()):
            port, internal_port = (str(FIRST_PORT + 2 * number + offset) for offset in (0, 1))
            ports = {"SUBMITTER_PORT": port, "SUBMITTER_INTERNAL_PORT": internal_port}
            env = {**running.env, **ports, "SUBMITTER_URL": f"http://{LOCAL}:{port}"}
            command = ("env", f"--chdir={checkout}", PYTHON, "-m", "services.submitter")
            process = await stack.enter_async_context(Process.running(command, env, folder / f"submitter-{number}.log"))
            await wait_until_ready([service("submitter", env)])
            starting = Client.running(system.public_client, env, folder / f"client-{number}.log")
            found[name] = Submitter(process.pid, await stack.enter_async_context(starting))
        yield found


async def measure(subject: Subject, found: dict[str, Submitter]) -> dict[tuple[str, str], float]:
    """Measure each submitter once: portions of submissions in turns, then single ones in turns, with random gaps."""
    used_s = dict.fromkeys(found, 0.0)
    latencies: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(PORTIONS):
        for name, submitter in found.items():
            done = subject.starts.count + PORTION
            used_s[name] += await submitter.submit(PORTION)
            await subject.wait_started(done)
    for _ in range(SINGLE_JOBS):
        for name, submitter in found.items():
            done = subject.starts.count + 1
            await asyncio.sleep(random.uniform(*GAP_S))  # noqa: S311
            await submitter.submit(1)
            await subject.wait_started(done)
            latencies[name].append(subject.starts.latencies_ms[-1])
    cpu_ms = {(name, "cpu_ms"): seconds * 1000 / (PORTION * PORTIONS) for name, seconds in used_s.items()}
    return cpu_ms | {
        (name, f"start_p{percent}_ms"): percentile(latencies[name], percent) for name in found for percent in (50, 95)
    }


async def run(rounds: int, checkouts: dict[str, Path], folder: Path) -> list[Row]:
    """Run the stores, a worker and the submitters, and measure them in rounds."""
    system = next(system for system in systems() if system.name == HEADWAY)
    rows = []
    async with stores(folder) as running:
        await running.clear()
        async with (
            Subject.running(system, running, folder / "worker") as subject,
            submitters(checkouts, system, running, folder) as found,
        ):
            for number in range(rounds + 1):
                measured = await measure(subject, found)
                if number:  # the first round warms up
                    rows += [Row(number, name, title, value) for (name, title), value in measured.items()]
    return rows


def main(arguments: list[str]) -> None:
    """Measure, write the raw rows and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.worker.submissions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="a checkout of another version")
    parser.add_argument("--results", type=Path, default=RESULTS, help="CSV file of the raw rows")
    args = parser.parse_args(arguments)
    checkouts = {HEADWAY: ROOT} | ({} if args.before is None else {BEFORE: args.before.resolve()})
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        rows = asyncio.run(run(args.rounds, checkouts, Path(temporary)))
    write_csv(rows, args.results)
    print(markdown_table(rows, COLUMNS))


if __name__ == "__main__":
    main(sys.argv[1:])
