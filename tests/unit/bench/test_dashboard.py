"""The arithmetic of the dashboard's benchmark. No test asserts what it measures."""

from __future__ import annotations

from typing import Any, cast

import pytest

from bench.dashboard.jobs import RunningJobs
from bench.dashboard.page import Cost
from dev.reported_jobs import ReportSender


def test_cost_is_a_share_of_the_elapsed_time() -> None:
    """Scripts, styles and layouts count; what the page has cost before does not."""
    before, after = Cost(1, 2, 3, 10, 100), Cost(1.5, 2.25, 3.25, 20, 120)
    assert after.since(before) == Cost(0.5, 0.25, 0.25, 10, 20)
    assert after.since(before).share == pytest.approx(5)


class Reports:
    """Collects what is sent."""

    def __init__(self) -> None:
        self.sent: list[list[dict[str, Any]]] = []

    async def send(self, jobs: list[dict[str, Any]]) -> None:
        """Collect the fields of reports."""
        self.sent.append(jobs)


async def test_all_jobs_advance_together() -> None:
    """Each report of a job names it as the first one has done, and no two jobs show the same."""
    reports = Reports()
    jobs = RunningJobs(cast(ReportSender, reports))
    await jobs.start(3)
    await jobs.advance(10)
    started, advanced = reports.sent
    assert [{**job, "progress": None} for job in started] == [{**job, "progress": None} for job in advanced]
    assert [job["progress"]["current"] for job in advanced] == [10, 11, 12]
