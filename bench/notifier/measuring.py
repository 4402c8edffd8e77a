"""A round: scenario by scenario, all systems one after the other in an order by chance, each on a server of its own.

So neighbours in a table have seen the same noise of the machine.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.notifier import load
from bench.notifier.scenarios import Scenario
from bench.notifier.servers import Bed, serving
from bench.notifier.systems import System
from bench.processes import Ended

FLAWS = "flaws"  # how many a run had, whose figures are left out

Found = list[tuple[str, str, float]]  # system, measure, value


async def measure(
    scenarios: Sequence[Scenario], systems: Sequence[System], bed: Bed, folder: Path, seconds: float
) -> Found:
    """Measure all systems once."""
    found: Found = []
    for scenario in scenarios:
        chosen = [system for system in systems if scenario.name in system.scenarios]
        for repeat in range(scenario.repeats):
            for system in random.sample(chosen, len(chosen)):
                place = folder / f"{scenario.name}-{repeat}" / system.name.replace(" ", "-")
                found += await step(scenario, system, bed, place, seconds)
    return found


async def step(scenario: Scenario, system: System, bed: Bed, folder: Path, seconds: float) -> Found:
    """Measure a system in one scenario; a run with flaws has no figures, and says so."""
    try:
        async with serving(system, scenario.replicas, bed, folder) as servers:
            outcome = await load.run(load.command(scenario, system, bed, servers, seconds))
        figures, flaws = outcome.figures(scenario, system), outcome.flaws(scenario)
    except (Ended, RuntimeError, TimeoutError) as error:
        figures, flaws = {}, [str(error) or type(error).__name__]
    print(f"{scenario.name}: {system.name}: {'; '.join(flaws) or _brief(figures)}", file=sys.stderr, flush=True)
    if flaws:
        figures = {FLAWS: len(flaws)}
    return [(system.name, scenario.measure(figure), value) for figure, value in figures.items()]


def _brief(figures: dict[str, float]) -> str:
    return ", ".join(f"{figure} {value:.4g}" for figure, value in figures.items())
