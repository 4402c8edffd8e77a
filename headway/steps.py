"""A job's progress as a tree of weighted steps. Pure arithmetic, without I/O."""

from __future__ import annotations

from headway.contracts import MAX_PROGRESS_MESSAGE_LENGTH, MAX_UNIT_LENGTH, Progress, percentage, truncate

PATH_SEPARATOR = " › "  # noqa: RUF001 - as in breadcrumbs
ROUNDING = 1e-9  # a relative error; 0.1 + 0.2 is more than 0.3
MAX_UNFINISHED = 1 - 2**-53  # the greatest fraction below 1
ReportedProgress = tuple[float, float | None, str | None, str | None]  # current, total, message, unit


class Step:
    """A part of a job, with a weight in its parent.

    Its progress is that of its substeps or, if it has none, the progress that the handler reported in it.
    """

    __slots__ = ("finished_weight", "name", "open_steps", "parent", "reported", "total_weight", "weight")

    def __init__(self, name: str = "", weight: float = 1, parent: Step | None = None) -> None:
        self.name = name
        self.weight = weight
        self.parent = parent
        self.total_weight: float | None = None  # of all substeps, if known
        self.finished_weight: float = 0  # of the substeps that have ended
        self.open_steps: list[Step] = []
        self.reported: ReportedProgress | None = None

    def begin(self, name: str, weight: float) -> Step:
        """Start a substep and return it."""
        step = Step(name, weight, self)
        self.open_steps.append(step)
        return step

    def end(self, *, completed: bool) -> None:
        """End this step. If it did not complete, only the completed fraction counts in its parent."""
        if self.parent is not None:
            self.parent.open_steps.remove(self)
            self.parent.finished_weight += self.weight if completed else self.weight * self.fraction

    @property
    def has_steps(self) -> bool:
        """Whether the progress is that of substeps."""
        return bool(self.total_weight or self.finished_weight or self.open_steps)

    @property
    def is_overweight(self) -> bool:
        """Whether the ended substeps weigh more than their announced total, apart from rounding errors."""
        return self.total_weight is not None and self.finished_weight > self.total_weight * (1 + ROUNDING)

    @property
    def completed_weight(self) -> float:
        """The weight of the ended substeps, and of the completed fraction of each open one."""
        return self.finished_weight + sum(step.weight * step.fraction for step in self.open_steps)

    @property
    def fraction(self) -> float:
        """The completed fraction, 0 to 1; 0 if the total is unknown, and 1 only if the step is complete."""
        if self.is_complete:
            return 1.0
        current, total = (self.completed_weight, self.total_weight) if self.has_steps else self._reported_amounts
        return min(current / total, MAX_UNFINISHED) if total else 0.0

    @property
    def is_complete(self) -> bool:
        """Whether the total is known and reached, apart from the rounding errors of fractional weights."""
        if self.has_steps:
            current = self.finished_weight + sum(step.weight for step in self.open_steps if step.is_complete)
            total = self.total_weight
            if total is not None and not (isinstance(current, int) and isinstance(total, int)):
                total *= 1 - ROUNDING
        else:
            current, total = self._reported_amounts
        return total is not None and current >= total

    @property
    def _reported_amounts(self) -> tuple[float, float | None]:
        return self.reported[:2] if self.reported else (0, None)

    @property
    def path(self) -> str:
        """The names of the enclosing steps and of this step, separated by `PATH_SEPARATOR`."""
        names: list[str] = []
        step: Step | None = self
        while step is not None:
            if step.name:
                names.append(step.name)
            step = step.parent
        return PATH_SEPARATOR.join(reversed(names))


def aggregate(root: Step, last_reported: Step) -> Progress:
    """Return the progress of the whole job, with the message of the step that reported last.

    With steps, it is in percent or, if their total weight is unknown, a number of steps.
    """
    current, total, message, unit = last_reported.reported or (0.0, None, None, None)
    message = message and message[: MAX_PROGRESS_MESSAGE_LENGTH + 1]
    text = f"{last_reported.path}: {message}" if last_reported.path and message else last_reported.path or message
    if not root.has_steps:
        return Progress(
            current, total, None if unit is None else truncate(unit, MAX_UNIT_LENGTH), _truncate_message(text)
        )
    if root.total_weight is None:
        return Progress(round(float(root.completed_weight), 2), None, "steps", _truncate_message(text))
    return Progress(percentage(root.fraction, 1) or 0.0, 100, "%", _truncate_message(text))


def _truncate_message(text: str | None) -> str | None:
    return None if text is None else truncate(text, MAX_PROGRESS_MESSAGE_LENGTH)
