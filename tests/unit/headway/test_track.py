"""`ctx.track`: iteration over items with progress, and how it finds their number."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from headway import JobContext
from headway.context import Attempt
from headway.contracts import Progress
from headway.testing import Recorder


class Loader:
    """A data set whose `__len__` calls a function."""

    def __init__(self, length: Callable[[], Any]) -> None:
        self._length = length
        self.measured = 0

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))

    def __len__(self) -> int:
        self.measured += 1
        return self._length()  # type: ignore[no-any-return]


class AsyncLoader(Loader):
    """The same for `async for`."""

    async def __aiter__(self) -> AsyncIterator[int]:
        for number in range(3):
            yield number


def raises(error: Exception) -> Callable[[], Any]:
    """Return a function that raises an exception."""

    def raise_error() -> Any:
        raise error

    return raise_error


def context() -> tuple[JobContext, list[Progress]]:
    """Return a context and the list of the progress that it reports."""
    recorder = Recorder()
    return JobContext(Attempt(job_id=uuid4(), kind="test"), recorder), recorder.progress


@pytest.mark.parametrize("loader", [Loader, AsyncLoader])
@pytest.mark.parametrize(
    "length",
    [
        raises(TypeError("object of type 'IterableDataset' has no len()")),
        raises(NotImplementedError()),
        raises(ConnectionError("the database is away")),
        lambda: -1,
        lambda: "three",
        lambda: None,
        lambda: 2**70,
        lambda: float("nan"),
    ],
)
async def test_a_length_that_cannot_be_read_is_unknown(loader: type[Loader], length: Callable[[], Any]) -> None:
    """All items are counted, without a total."""
    ctx, reported = context()
    assert [item async for item in ctx.track(loader(length))] == [0, 1, 2]
    assert reported == [Progress(done, None) for done in range(4)]
    if loader is Loader:
        assert list(ctx.track(loader(length))) == [0, 1, 2]


def test_a_length_is_read_only_when_it_is_needed() -> None:
    """The length of a database query runs the query: it is read once, when the iteration begins, or never."""
    ctx, reported = context()
    loader = Loader(lambda: 3)
    ctx.track(loader)
    list(ctx.track(loader, total=3))
    assert loader.measured == 0
    list(ctx.track(loader))
    assert loader.measured == 1
    assert reported[-1] == Progress(3, 3)


def test_a_length_that_is_too_small_fills_the_bar() -> None:
    """More items than announced leave the bar at 100 %."""
    ctx, reported = context()
    assert list(ctx.track(Loader(lambda: 2))) == [0, 1, 2]
    assert [progress.percent for progress in reported] == [0.0, 50.0, 100.0, 100.0]
