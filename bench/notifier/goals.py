"""The ratios: what Headway costs beside others, what it may at worst, and what it is meant to."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from statistics import median
from typing import NamedTuple

from bench.figures import Row, turns, values
from bench.notifier.measuring import FLAWS
from bench.notifier.scenarios import FANOUT, IDLE, JOBS, STUCK, Scenario
from bench.notifier.systems import (
    FASTAPI,
    HEADWAY,
    HEADWAY_10,
    HEADWAY_100,
    HEADWAY_STUCK,
    LIMIT,
    PYTHON_SOCKETIO,
    SOCKETIO,
)


class Verdict(Enum):
    """What became of a gate."""

    MET = "goal met"
    PASSED = "gate passed"
    MISSED = "gate missed"
    FLAWED = "no run without flaws: gate missed"
    UNMEASURED = "not measured"

    @property
    def bad(self) -> bool:
        """Whether the bench ends with 1."""
        return self in (Verdict.MISSED, Verdict.FLAWED)


class Goal(NamedTuple):
    """One system's figure over another's."""

    what: str
    scenario: Scenario
    figure: str
    over: str
    under: str
    gate: float
    goal: float
    at_most: bool = False  # the gate is the most that the ratio may be; else the least

    def ratio(self, rows: Sequence[Row]) -> float | None:
        """Return the median of the turns' ratios, None when there is none.

        The same turn of both was measured within a few seconds: what slowed the machine then, slowed both.
        """
        over, under = (turns(rows, system, self.scenario.measure(self.figure)) for system in (self.over, self.under))
        pairs = (zip(over[number], under[number], strict=True) for number in over.keys() & under.keys())
        found = [one / other for pair in pairs for one, other in pair]
        return median(found) if found else None

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        """Compare the ratio with gate and goal."""
        ratio = self.ratio(rows)
        if ratio is None:
            flaws = self.scenario.measure(FLAWS)
            flawed = any(values(rows, system, flaws) for system in (self.over, self.under))
            return Verdict.FLAWED if flawed else Verdict.UNMEASURED
        if self._holds(ratio, self.goal):
            return Verdict.MET
        return Verdict.PASSED if self._holds(ratio, self.gate) else Verdict.MISSED

    def _holds(self, ratio: float, limit: float) -> bool:
        return ratio <= limit if self.at_most else ratio >= limit

    def line(self, rows: Sequence[Row]) -> list[str]:
        """Return its line of the table."""
        ratio, bound = self.ratio(rows), "at most" if self.at_most else "at least"
        told = "-" if ratio is None else f"{ratio:.2f}"
        return [self.what, told, f"{bound} {self.gate:g}", f"{self.goal:g}", self.verdict(rows).value]


GOALS = (
    Goal(
        "CPU a delivery, 1,000 watchers: Headway to the C limit",
        FANOUT,
        "delivery_us",
        HEADWAY,
        LIMIT,
        1.5,
        1.25,
        at_most=True,
    ),
    Goal("the same: Socket.IO + Redis to Headway", FANOUT, "delivery_us", SOCKETIO, HEADWAY, 1.6, 2),
    Goal("the same: python-socketio + Redis to Headway", FANOUT, "delivery_us", PYTHON_SOCKETIO, HEADWAY, 4, 6),
    Goal("CPU a report, 1,000 jobs: Socket.IO + Redis to Headway", JOBS, "report_us", SOCKETIO, HEADWAY, 0.8, 1.2),
    Goal("the same: FastAPI + Redis to Headway", JOBS, "report_us", FASTAPI, HEADWAY, 1.5, 2.5),
    Goal("the same: Headway to itself in batches of 10", JOBS, "report_us", HEADWAY, HEADWAY_10, 2.5, 3.5),
    Goal("the same: Headway to itself in batches of 100", JOBS, "report_us", HEADWAY, HEADWAY_100, 5, 8),
    Goal("bytes an idle connection: Socket.IO + Redis to Headway", IDLE, "idle_bytes", SOCKETIO, HEADWAY, 0.6, 1.5),
    Goal("CPU a handshake without token: FastAPI + Redis to Headway", IDLE, "upgrade_us", FASTAPI, HEADWAY, 3, 5),
    Goal(
        "CPU a delivery, beside 1,000 stuck watchers to without",
        STUCK,
        "delivery_us",
        HEADWAY_STUCK,
        HEADWAY,
        1.1,
        1.05,
        at_most=True,
    ),
    Goal(
        "p50, beside 1,000 stuck watchers to without", STUCK, "p50_ms", HEADWAY_STUCK, HEADWAY, 1.2, 1.1, at_most=True
    ),
)


def ratios(rows: Sequence[Row]) -> str:
    """Make a Markdown table of all ratios, gates and goals."""
    lines = [
        ["median of the turns' ratios", "found", "gate", "goal", "verdict"],
        ["---", "---:", "---:", "---:", "---"],
    ]
    lines += [goal.line(rows) for goal in GOALS]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def missed(rows: Sequence[Row]) -> list[Goal]:
    """Return the goals whose gates are missed."""
    return [goal for goal in GOALS if goal.verdict(rows).bad]
