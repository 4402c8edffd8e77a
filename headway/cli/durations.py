"""Durations as text."""

from __future__ import annotations

UNITS_S = {"s": 1, "min": 60, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}  # as people enter them
_UNITS = ((86_400, "days"), (3_600, "h"), (60, "min"), (1, "s"))


def duration_text(milliseconds: int) -> str:
    """Format a duration in the largest unit that gives at least 2, otherwise in seconds."""
    seconds = max(0, milliseconds // 1000)
    unit_s, unit = next((entry for entry in _UNITS if seconds >= 2 * entry[0]), _UNITS[-1])
    return f"{seconds // unit_s} {unit}"
