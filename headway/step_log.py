"""The steps of an attempt with their times, for the job's details."""

from __future__ import annotations

from headway.contracts import MAX_STEP_NAME_LENGTH, MAX_STEPS, StepTimes, encode, truncate
from headway.steps import Step
from headway.timestamp import Timestamp


class StepLog:
    """Records when steps begin and end: the newest `MAX_STEPS`, and of older ones those that still run first."""

    def __init__(self) -> None:
        self._times: dict[Step, StepTimes] = {}  # in the order of the starts

    def begin(self, step: Step) -> None:
        """Record the start of a step; its name includes those of the enclosing steps."""
        if len(self._times) == MAX_STEPS:
            ended = (step for step, times in self._times.items() if times.ended_at is not None)
            del self._times[next(ended, next(iter(self._times)))]
        self._times[step] = StepTimes(truncate(step.path, MAX_STEP_NAME_LENGTH), Timestamp.now())

    def end(self, step: Step) -> None:
        """Record the end of a step."""
        if (times := self._times.get(step)) is not None:
            self._times[step] = StepTimes(times.name, times.started_at, Timestamp.now())

    def times(self) -> tuple[StepTimes, ...]:
        """Return the recorded steps in the order of their starts; thread-safe."""
        return tuple(self._times.values())


def newest_steps(steps: tuple[StepTimes, ...], max_bytes: int) -> tuple[StepTimes, ...]:
    """Return the newest steps whose JSON has at most `max_bytes`."""
    while steps and len(encode(steps)) > max_bytes:
        steps = steps[(len(steps) + 1) // 2 :]
    return steps
