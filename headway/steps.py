"""How far a job is, of what its handler says: a tree of weighted steps, and arithmetic without a clock or a loop."""

from __future__ import annotations

from headway.contracts import MAX_MESSAGE, MAX_UNIT, Progress, shortened

BETWEEN = " › "  # noqa: RUF001 - as breadcrumbs have it
Said = tuple[float, float | None, str | None, str | None]  # current, total, message, unit


class Step:
    """A part of a job: it is so much of its parent, and has parts of its own or is counted."""

    __slots__ = ("done", "name", "open", "parent", "said", "weight", "weights")

    def __init__(self, name: str = "", weight: float = 1.0, parent: Step | None = None) -> None:
        self.name = name
        self.weight = weight
        self.parent = parent
        self.weights: float | None = None  # what the weights of its steps add up to, when that is known
        self.done = 0.0  # the weights of its steps that are over
        self.open: list[Step] = []
        self.said: Said | None = None

    def begin(self, name: str, weight: float) -> Step:
        """Begin a step of this one."""
        step = Step(name, weight, self)
        self.open.append(step)
        return step

    def end(self, *, whole: bool) -> None:
        """End this step: the whole of it is done, or as much as was."""
        if self.parent is not None:
            self.parent.open.remove(self)
            self.parent.done += self.weight * (1.0 if whole else self.fraction)

    @property
    def in_steps(self) -> bool:
        """Tell whether it has steps, rather than being counted."""
        return bool(self.weights or self.done or self.open)

    @property
    def weighed(self) -> float:
        """Return the weight of all that is done of its steps."""
        return self.done + sum(step.weight * step.fraction for step in self.open)

    @property
    def fraction(self) -> float:
        """Return how much of it is done, 0 to 1; of what nobody knows the size of, nothing."""
        if self.in_steps:
            return min(1.0, self.weighed / self.weights) if self.weights else 0.0
        current, total = self.said[:2] if self.said else (0.0, None)
        return 0.0 if total is None else min(1.0, current / total) if total else 1.0

    @property
    def path(self) -> str:
        """Name it with the steps that it is in."""
        above = self.parent.path if self.parent is not None else ""
        return f"{above}{BETWEEN}{self.name}" if above else self.name


def summed(root: Step, last: Step) -> Progress:
    """Sum a job up; its message is that of the step which spoke last."""
    current, total, message, unit = last.said or (0.0, None, None, None)
    text = f"{last.path}: {message}" if last.path and message else last.path or message
    if not root.in_steps:
        return Progress(current, total, None if unit is None else shortened(unit, MAX_UNIT), _fit(text))
    if root.weights is None:
        return Progress(round(root.weighed, 2), None, "steps", _fit(text))
    return Progress(round(100.0 * root.fraction, 2), 100, "%", _fit(text))


def _fit(text: str | None) -> str | None:
    return None if text is None else shortened(text, MAX_MESSAGE)
