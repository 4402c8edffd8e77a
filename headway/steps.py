"""How far a job is, of what its handler says: a tree of weighted steps, and arithmetic without a clock or a loop."""

from __future__ import annotations

from headway.contracts import MAX_PROGRESS_MESSAGE_LENGTH, MAX_UNIT_LENGTH, Progress, truncate

PATH_SEPARATOR = " › "  # noqa: RUF001 - as breadcrumbs have it
ReportedProgress = tuple[float, float | None, str | None, str | None]  # current, total, message, unit


class Step:
    """A part of a job: it is so much of its parent, and has parts of its own or is counted."""

    __slots__ = ("finished_weight", "name", "open_steps", "parent", "reported", "total_weight", "weight")

    def __init__(self, name: str = "", weight: float = 1.0, parent: Step | None = None) -> None:
        self.name = name
        self.weight = weight
        self.parent = parent
        self.total_weight: float | None = None  # what the weights of its steps add up to, when that is known
        self.finished_weight = 0.0  # the weights of its steps that are over
        self.open_steps: list[Step] = []
        self.reported: ReportedProgress | None = None

    def begin(self, name: str, weight: float) -> Step:
        """Begin a step of this one."""
        step = Step(name, weight, self)
        self.open_steps.append(step)
        return step

    def end(self, *, completed: bool) -> None:
        """End this step: the whole of it is done, or as much as was."""
        if self.parent is not None:
            self.parent.open_steps.remove(self)
            self.parent.finished_weight += self.weight * (1.0 if completed else self.fraction)

    @property
    def has_steps(self) -> bool:
        """Tell whether it has steps, rather than being counted."""
        return bool(self.total_weight or self.finished_weight or self.open_steps)

    @property
    def completed_weight(self) -> float:
        """Return the weight of all that is done of its steps."""
        return self.finished_weight + sum(step.weight * step.fraction for step in self.open_steps)

    @property
    def fraction(self) -> float:
        """Return how much of it is done, 0 to 1; of what nobody knows the size of, nothing."""
        if self.has_steps:
            return min(1.0, self.completed_weight / self.total_weight) if self.total_weight else 0.0
        current, total = self.reported[:2] if self.reported else (0.0, None)
        return 0.0 if total is None else min(1.0, current / total) if total else 1.0

    @property
    def path(self) -> str:
        """Name it with the steps that it is in."""
        above = self.parent.path if self.parent is not None else ""
        return f"{above}{PATH_SEPARATOR}{self.name}" if above else self.name


def aggregate(root: Step, last: Step) -> Progress:
    """Sum a job up; its message is that of the step which spoke last."""
    current, total, message, unit = last.reported or (0.0, None, None, None)
    text = f"{last.path}: {message}" if last.path and message else last.path or message
    if not root.has_steps:
        return Progress(
            current, total, None if unit is None else truncate(unit, MAX_UNIT_LENGTH), _truncate_message(text)
        )
    if root.total_weight is None:
        return Progress(round(root.completed_weight, 2), None, "steps", _truncate_message(text))
    return Progress(round(100.0 * root.fraction, 2), 100, "%", _truncate_message(text))


def _truncate_message(text: str | None) -> str | None:
    return None if text is None else truncate(text, MAX_PROGRESS_MESSAGE_LENGTH)
