"""Tests of the jobs queue that need no queue."""

import pytest

from headway.azure.job_queue import service_time
from headway.timestamp import Timestamp


@pytest.mark.parametrize(
    ("local_s", "expected_s"),
    [(100.25, 100.25), (99.9, 100), (101.2, 101), (-1e6, 100), (1e6, 101)],
    ids=["right", "early", "late", "far too early", "far too late"],
)
def test_local_clock_counts_only_within_the_second_of_the_service(local_s: float, expected_s: float) -> None:
    """A worker's clock can be wrong by any amount, and a right one is more precise than the service's answer."""
    assert service_time(100, Timestamp.at(local_s)) == Timestamp.at(expected_s)
