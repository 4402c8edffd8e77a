"""The expression of an alert is true within a minute of its condition, and false when that is over."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.deploy.conditions import Conditions, caused_conditions
from tests.deploy.prometheus import NEEDS_PROMETHEUS

pytestmark = NEEDS_PROMETHEUS


@pytest.fixture(scope="module")
async def conditions(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Conditions]:
    """Cause all conditions."""
    async with caused_conditions(tmp_path_factory.mktemp("conditions")) as conditions:
        yield conditions


@pytest.mark.parametrize(
    "alert",
    [
        pytest.param("NotifierReplicaWithoutRedis", id="a replica without messages of Redis"),
        pytest.param("WorkersStarving", id="a worker that cannot reach the notifier"),
        pytest.param("JobsStalled", id="a queue that grows, because no worker runs"),
        pytest.param("JobsFailureRatioHigh", id="one kind that fails"),
        pytest.param("WatchersRefused", id="browsers whose origin is not allowed"),
        pytest.param("JobsStartLatencyBudgetBurn", id="jobs that start too late"),
    ],
)
async def test_a_condition_fulfils_the_expression_of_its_alert(conditions: Conditions, alert: str) -> None:
    """It is false before the condition, true within a minute, and false when the condition is over."""
    assert conditions.seen[alert] == [False, True, False]
