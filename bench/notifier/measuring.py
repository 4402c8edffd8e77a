"""A round: in each scenario all systems run side by side, each with its own server and load client.

The same work takes up to twice the CPU time when other processes use the machine. Therefore the systems take turns of a
second or two, in a new random order each time: the values that are compared were measured within a few seconds.
"""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench.notifier.load import Load, load_command
from bench.notifier.scenarios import Scenario
from bench.notifier.servers import SharedSetup, running_servers
from bench.notifier.systems import System
from bench.processes import ProcessEnded

FLAWS = "flaws"  # the number of flaws of a system; its figures are left out then

Measurements = list[tuple[str, str, float]]  # system, measure, value


class Subject:
    """A system in a scenario, and its measurements so far."""

    def __init__(self, system: System, scenario: Scenario) -> None:
        self.system = system
        self.flaws: list[str] = []
        self._scenario = scenario
        self._measurements: Measurements = []
        self._load: Load

    @asynccontextmanager
    async def running(self, setup: SharedSetup, number: int, folder: Path, seconds: float) -> AsyncIterator[None]:
        """Run the system's servers and load client until the block ends."""
        async with AsyncExitStack() as stack:
            try:
                serve = running_servers(self.system, number, self._scenario.replicas, setup, folder)
                servers = await stack.enter_async_context(serve)
                words = await load_command(self._scenario, self.system, setup, servers, seconds)
                self._load = await stack.enter_async_context(Load.running(words, setup.env, folder / "load.log"))
            except (ProcessEnded, TimeoutError) as error:
                self._fail(error)
            yield

    async def turn(self, command: str) -> None:
        """Run a turn, unless an earlier one had flaws."""
        if self.flaws:
            return
        try:
            outcome = await self._load.turn(command)
            self._record(outcome.flaws(), outcome.figures(self._scenario, self.system))
        except (ProcessEnded, TimeoutError) as error:
            self._fail(error)

    def measurements(self) -> Measurements:
        """Return the figures of all turns, or the number of flaws."""
        if self.flaws:
            return [(self.system.name, self._scenario.measure(FLAWS), len(self.flaws))]
        return self._measurements

    def _fail(self, error: Exception) -> None:
        self._record([str(error) or type(error).__name__], {})

    def _record(self, flaws: list[str], figures: dict[str, float]) -> None:
        summary = "; ".join(flaws) or ", ".join(f"{figure} {value:.4g}" for figure, value in figures.items())
        print(f"{self._scenario.name}: {self.system.name}: {summary}", file=sys.stderr, flush=True)
        self.flaws = flaws
        self._measurements += [
            (self.system.name, self._scenario.measure(figure), value) for figure, value in figures.items()
        ]


async def measure(
    scenarios: Sequence[Scenario], systems: Sequence[System], setup: SharedSetup, folder: Path, seconds: float
) -> Measurements:
    """Measure all systems once."""
    measurements: Measurements = []
    for scenario in scenarios:
        chosen = [system for system in systems if scenario.name in system.scenarios]
        measurements += await side_by_side(scenario, chosen, setup, folder / scenario.name, seconds)
    return measurements


async def side_by_side(
    scenario: Scenario, systems: Sequence[System], setup: SharedSetup, folder: Path, seconds: float
) -> Measurements:
    """Measure systems in one scenario; they take turns."""
    await setup.clear()
    subjects = [Subject(system, scenario) for system in systems]
    async with AsyncExitStack() as stack:
        for number, subject in enumerate(subjects):
            subfolder = folder / subject.system.name.replace(" ", "-")
            await stack.enter_async_context(subject.running(setup, number, subfolder, seconds))
        for command in scenario.commands:
            for subject in random.sample(subjects, len(subjects)):
                await subject.turn(command)
    return [row for subject in subjects for row in subject.measurements()]
