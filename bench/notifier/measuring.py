"""A round: scenario by scenario, all systems side by side, each with a server and a load client of its own.

The same work takes up to twice the CPU time when others use the machine. So they take turns of a second or two, in an
order by chance each time, and what is compared was measured within the same few seconds.
"""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench.notifier.load import Load, command
from bench.notifier.scenarios import Scenario
from bench.notifier.servers import Bed, serving
from bench.notifier.systems import System
from bench.processes import Ended

FLAWS = "flaws"  # how many a system had, whose figures are left out

Found = list[tuple[str, str, float]]  # system, measure, value


class Subject:
    """A system in a scenario, and what was found of it so far."""

    def __init__(self, system: System, scenario: Scenario) -> None:
        self.system = system
        self.flaws: list[str] = []
        self._scenario = scenario
        self._found: Found = []
        self._load: Load

    @asynccontextmanager
    async def running(self, bed: Bed, number: int, folder: Path, seconds: float) -> AsyncIterator[None]:
        """Run its servers and its load client until the block ends."""
        async with AsyncExitStack() as stack:
            try:
                serve = serving(self.system, number, self._scenario.replicas, bed, folder)
                servers = await stack.enter_async_context(serve)
                words = command(self._scenario, self.system, bed, servers, seconds)
                self._load = await stack.enter_async_context(Load.running(words, bed.env, folder / "load.log"))
            except (Ended, TimeoutError) as error:
                self._fail(error)
            yield

    async def turn(self, command: str) -> None:
        """Take a turn; after one with flaws there are no others."""
        if self.flaws:
            return
        try:
            outcome = await self._load.turn(command)
            self._note(outcome.flaws(), outcome.figures(self._scenario, self.system))
        except (Ended, TimeoutError) as error:
            self._fail(error)

    def found(self) -> Found:
        """Return its figures of all turns, or how many flaws it had."""
        if self.flaws:
            return [(self.system.name, self._scenario.measure(FLAWS), len(self.flaws))]
        return self._found

    def _fail(self, error: Exception) -> None:
        self._note([str(error) or type(error).__name__], {})

    def _note(self, flaws: list[str], figures: dict[str, float]) -> None:
        told = "; ".join(flaws) or ", ".join(f"{figure} {value:.4g}" for figure, value in figures.items())
        print(f"{self._scenario.name}: {self.system.name}: {told}", file=sys.stderr, flush=True)
        self.flaws = flaws
        self._found += [(self.system.name, self._scenario.measure(figure), value) for figure, value in figures.items()]


async def measure(
    scenarios: Sequence[Scenario], systems: Sequence[System], bed: Bed, folder: Path, seconds: float
) -> Found:
    """Measure all systems once."""
    found: Found = []
    for scenario in scenarios:
        chosen = [system for system in systems if scenario.name in system.scenarios]
        found += await side_by_side(scenario, chosen, bed, folder / scenario.name, seconds)
    return found


async def side_by_side(scenario: Scenario, systems: Sequence[System], bed: Bed, folder: Path, seconds: float) -> Found:
    """Measure systems in one scenario, by turns."""
    await bed.clear()
    subjects = [Subject(system, scenario) for system in systems]
    async with AsyncExitStack() as stack:
        for number, subject in enumerate(subjects):
            place = folder / subject.system.name.replace(" ", "-")
            await stack.enter_async_context(subject.running(bed, number, place, seconds))
        for order in scenario.commands:
            for subject in random.sample(subjects, len(subjects)):
                await subject.turn(order)
    return [row for subject in subjects for row in subject.found()]
