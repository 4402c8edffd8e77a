"""What is restored after a job, and what that costs."""

from __future__ import annotations

from services.runtime.process_state import ProcessState


class Incomparable:
    """A value that cannot be compared, like a set of tasks that is too large for it."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise TypeError


def test_an_unchanged_setting_is_not_compared() -> None:
    """The comparison of a task factory would take longer the more tasks run."""
    unchanged = Incomparable()
    restored: list[object] = []
    values = ["saved"]
    state = ProcessState((lambda: unchanged, restored.append), (lambda: values[-1], values.append))
    values.append("changed")
    state.restore()
    assert (values, restored) == (["saved", "changed", "saved"], [])
