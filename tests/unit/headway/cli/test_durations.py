"""Durations as text."""

from __future__ import annotations

import pytest

from headway.cli.durations import duration_text


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-5, "0 s"), (1, "1 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (3 * 86_400, "3 days")],
)
def test_durations_have_a_suitable_unit(seconds: int, expected: str) -> None:
    """The unit is the largest of which the duration has at least two."""
    assert duration_text(seconds * 1000) == expected
