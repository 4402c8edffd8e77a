"""The log of steps: their names and times."""

from __future__ import annotations

import pytest

from headway.contracts import MAX_STEP_NAME_LENGTH, MAX_STEPS, StepTimes, Timestamp, encode
from headway.step_log import StepLog, newest_steps
from headway.steps import Step

NOW = Timestamp.now()


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each reading of the clock a second later than the last one."""
    seconds = iter(range(10_000))
    monkeypatch.setattr(Timestamp, "now", lambda: NOW.after(next(seconds)))


def begun(log: StepLog, name: str, parent: Step) -> Step:
    """Begin a step and return it."""
    step = parent.begin(name, 1)
    log.begin(step)
    return step


def test_steps_have_their_path_and_times() -> None:
    """A step that runs has no end; names are cut to their limit."""
    log, root = StepLog(), Step()
    outer = begun(log, "Download", root)
    log.end(begun(log, "sea", outer))
    begun(log, "x" * 1000, outer)
    assert log.times()[:2] == (
        StepTimes("Download", NOW),
        StepTimes("Download › sea", NOW.after(1), NOW.after(2)),  # noqa: RUF001
    )
    assert len(log.times()[2].name) == MAX_STEP_NAME_LENGTH


def test_running_steps_are_kept_longest() -> None:
    """The oldest of the steps that have ended makes room for a new one; if all run, the oldest does."""
    log, root = StepLog(), Step()
    outer = begun(log, "outer", root)
    for number in range(MAX_STEPS + 50):
        log.end(begun(log, f"{number}", outer))
    times = log.times()
    assert len(times) == MAX_STEPS
    assert [step.name.rpartition(" ")[2] for step in times] == ["outer", *map(str, range(51, MAX_STEPS + 50))]
    running = StepLog()
    steps = [begun(running, f"{number}", root) for number in range(MAX_STEPS + 1)]
    running.end(steps[0])
    assert [step.name for step in running.times()] == [f"{number}" for number in range(1, MAX_STEPS + 1)]


@pytest.mark.parametrize("max_bytes", [0, 2, 100, 1000, 5000, 10_000])
def test_newest_steps_fit(max_bytes: int) -> None:
    """As many of the newest steps are left as fit, or about half as many."""
    steps = tuple(StepTimes(f"step {number}", NOW) for number in range(100))
    newest = newest_steps(steps, max_bytes)
    assert newest == steps[len(steps) - len(newest) :]
    assert not newest or len(encode(newest)) <= max_bytes
    assert len(newest) == len(steps) or len(encode(steps[-2 * len(newest) - 2 :])) > max_bytes
