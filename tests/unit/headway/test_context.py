"""The context of a handler: what it reports after its attempt was released and continues on another worker."""

from __future__ import annotations

from uuid import uuid4

import pytest

from headway.context import Attempt, JobContext
from headway.contracts import Progress
from headway.testing import Recorder

Report = tuple[float, float | None]


def reported(start: Progress | None, *reports: Report) -> list[tuple[float, float | None]]:
    """Return current and total of what the worker sees when a handler reports progress."""
    recorder = Recorder()
    context = JobContext(Attempt(job_id=uuid4(), kind="test", progress=start), recorder)
    for current, total in reports:
        context.progress(current, total)
    return [(progress.current, progress.total) for progress in recorder.progress]


@pytest.mark.parametrize(
    ("start", "reports", "expected"),
    [
        ((95, 100), [(10, 100), (95, 100), (96, 100)], [(95, 100), (95, 100), (96, 100)]),
        ((95, 100), [(1, None), (190, 200), (1, None)], [(95, 100), (190, 200), (190, 200)]),
        ((50, None), [(1, None), (51, None), (2, None)], [(50, None), (51, None), (51, None)]),
        ((50, None), [(1, None), (1, 100), (51, None)], [(50, None), (1, 100), (1, 100)]),
        (None, [(50, None), (1, None), (10, 100), (5, 100)], [(50, None), (1, None), (10, 100), (10, 100)]),
    ],
    ids=["percentage", "without a total meanwhile", "count", "count becomes a percentage", "new attempt"],
)
def test_progress_continues_after_a_release(
    start: Report | None, reports: list[Report], expected: list[Report]
) -> None:
    """Until the handler has reached what the attempt had reported before, that stays, with the new messages."""
    assert reported(None if start is None else Progress(*start), *reports) == expected


def test_messages_are_shown_while_the_handler_catches_up() -> None:
    """The amount stays; the message is the handler's."""
    recorder = Recorder()
    start = Progress(9, 10, "files", "Almost done")
    JobContext(Attempt(job_id=uuid4(), kind="test", progress=start), recorder).progress(1, 10, "Beginning", unit="rows")
    assert recorder.progress == [Progress(9, 10, "files", "Beginning")]
