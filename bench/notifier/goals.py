"""Cost ratios between Headway and its peers, each with a threshold that must be met and a goal."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from statistics import median
from typing import NamedTuple

from bench.figures import Row, round_medians, values_by_round
from bench.notifier.measuring import FLAWS
from bench.notifier.scenarios import FANOUT, IDLE, JOBS, SLOW_CONSUMERS, TRANSPORTS, Scenario
from bench.notifier.systems import (
    FASTAPI,
    HEADWAY,
    HEADWAY_10,
    HEADWAY_100,
    HEADWAY_SLOW_CONSUMERS,
    LIMIT,
    PYTHON_SOCKETIO,
    SIGNALR,
    SIGNALR_2,
    SIGNALR_2_EVENT_STREAM,
    SIGNALR_MESSAGEPACK,
    SOCKETIO,
)


class Verdict(Enum):
    """How a ratio compares with its threshold and its goal."""

    MET = "goal met"
    PASSED = "threshold met"
    MISSED = "threshold missed"
    FLAWED = "threshold missed: no valid run"
    UNMEASURED = "not measured"

    @property
    def failed(self) -> bool:
        """Whether the benchmark exits with 1."""
        return self in (Verdict.MISSED, Verdict.FLAWED)


class Goal(NamedTuple):
    """A ratio between two systems, with a threshold and a goal."""

    title: str
    scenario: Scenario
    figure: str
    over: str
    under: str
    threshold: float
    goal: float
    at_most: bool = False  # whether threshold and goal are upper bounds; else they are lower bounds

    def ratio(self, rows: Sequence[Row]) -> float | None:
        """Return the median of the ratios of all turns, or None if nothing was measured.

        The same turn of both systems was measured within a few seconds, so a slow machine slows both.
        """
        over, under = (
            values_by_round(rows, system, self.scenario.measure(self.figure)) for system in (self.over, self.under)
        )
        pairs = (zip(over[number], under[number], strict=True) for number in over.keys() & under.keys())
        quotients = [one / other for pair in pairs for one, other in pair]
        return median(quotients) if quotients else None

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        """Compare the ratio with threshold and goal."""
        ratio = self.ratio(rows)
        if ratio is None:
            flaws = self.scenario.measure(FLAWS)
            flawed = any(round_medians(rows, system, flaws) for system in (self.over, self.under))
            return Verdict.FLAWED if flawed else Verdict.UNMEASURED
        if self._meets(ratio, self.goal):
            return Verdict.MET
        return Verdict.PASSED if self._meets(ratio, self.threshold) else Verdict.MISSED

    def _meets(self, ratio: float, bound: float) -> bool:
        return ratio <= bound if self.at_most else ratio >= bound

    def cells(self, rows: Sequence[Row]) -> list[str]:
        """Return the cells of its table row."""
        ratio, bound = self.ratio(rows), "at most" if self.at_most else "at least"
        measured = "-" if ratio is None else f"{ratio:.2f}"
        return [self.title, measured, f"{bound} {self.threshold:g}", f"{self.goal:g}", self.verdict(rows).value]


GOALS = (
    Goal(
        "CPU per delivery, 1,000 watchers: Headway / C limit",
        FANOUT,
        "delivery_us",
        HEADWAY,
        LIMIT,
        1.6,
        1.25,
        at_most=True,
    ),
    Goal("CPU per delivery, 1,000 watchers: Socket.IO / Headway", FANOUT, "delivery_us", SOCKETIO, HEADWAY, 1.5, 2),
    Goal(
        "CPU per delivery, 1,000 watchers: python-socketio / Headway",
        FANOUT,
        "delivery_us",
        PYTHON_SOCKETIO,
        HEADWAY,
        4,
        6,
    ),
    Goal(
        "CPU per report, 1,000 jobs: FastAPI / Headway, 10 per request", JOBS, "report_us", FASTAPI, HEADWAY_10, 3.5, 5
    ),
    Goal(
        "CPU per report, 1,000 jobs: FastAPI / Headway, 100 per request",
        JOBS,
        "report_us",
        FASTAPI,
        HEADWAY_100,
        5.5,
        9,
    ),
    Goal("bytes per idle connection: Socket.IO / Headway", IDLE, "idle_bytes", SOCKETIO, HEADWAY, 3, 4),
    Goal("CPU per handshake without a token: FastAPI / Headway", IDLE, "upgrade_us", FASTAPI, HEADWAY, 2.5, 5),
    Goal(
        "CPU per delivery: with 1,000 slow consumers / without",
        SLOW_CONSUMERS,
        "delivery_us",
        HEADWAY_SLOW_CONSUMERS,
        HEADWAY,
        1.1,
        1.05,
        at_most=True,
    ),
    Goal(
        "p50: with 1,000 slow consumers / without",
        SLOW_CONSUMERS,
        "p50_ms",
        HEADWAY_SLOW_CONSUMERS,
        HEADWAY,
        1.2,
        1.1,
        at_most=True,
    ),
    *(
        Goal(
            f"CPU per delivery: {system} / Headway", TRANSPORTS, "delivery_us", system, HEADWAY, 1.3, 1.1, at_most=True
        )
        for system in (SIGNALR, SIGNALR_MESSAGEPACK, SIGNALR_2, SIGNALR_2_EVENT_STREAM)
    ),
)


def ratios(rows: Sequence[Row]) -> str:
    """Format a Markdown table of all ratios, thresholds and goals."""
    lines = [
        ["ratio (median of all turns)", "measured", "threshold", "goal", "verdict"],
        ["---", "---:", "---:", "---:", "---"],
    ]
    lines += [goal.cells(rows) for goal in GOALS]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def missed(rows: Sequence[Row]) -> list[Goal]:
    """Return the goals whose thresholds are missed."""
    return [goal for goal in GOALS if goal.verdict(rows).failed]
