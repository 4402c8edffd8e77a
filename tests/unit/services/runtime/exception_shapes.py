"""Exceptions that are too large, or too slow, to be formatted as they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

MAX_S = 5.0  # of processor time; a copy within limits takes milliseconds


class SelfContaining(ExceptionGroup[Exception]):
    """A group that contains itself."""

    @property
    def exceptions(self) -> tuple[Exception, ...]:
        return (self,)


class Growing(ExceptionGroup[Exception]):
    """A group that contains two new groups of its type whenever it is read."""

    @property
    def exceptions(self) -> tuple[Exception, ...]:
        return Growing("left", [ValueError()]), Growing("right", [ValueError()])


class SlowText(str):
    """A text that cannot be sliced, measured or encoded in time."""

    __slots__ = ()

    def _wait(self, *_: object) -> NoReturn:
        time.sleep(MAX_S)
        raise AssertionError

    __getitem__ = __len__ = encode = __iter__ = __add__ = __format__ = _wait  # type: ignore[assignment]


class SlowMessage(Exception):
    """An exception with such a text."""

    def __str__(self) -> str:
        return SlowText("slow")


def raised(error: Exception) -> Exception:
    """Return an exception with a traceback."""
    with suppress(type(error)):
        raise error
    return error


def chain(attribute: str, length: int = 20_000) -> BaseException:
    """Return an exception with a long chain of causes or contexts."""
    error = first = raised(ValueError("first"))
    for _ in range(length):
        setattr(error, attribute, raised(ValueError("earlier")))
        error = getattr(error, attribute)
    return first


def deep_group(depth: int = 20_000) -> BaseException:
    """Return groups in groups."""
    error: Exception = ValueError("leaf")
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    return error


def shared_group(depth: int = 60) -> BaseException:
    """Return a group that contains another group twice, and so on: 2 ** 60 paths lead to its only leaf."""
    error: Exception = ValueError("leaf")
    for _ in range(depth):
        error = ExceptionGroup("group", [error, error])
    return error


def alternating(depth: int = 5_000) -> BaseException:
    """Return groups and causes in turn."""
    error: Exception = ValueError("leaf")
    for _ in range(depth):
        inner, error = error, ExceptionGroup("group", [ValueError()])
        error.__cause__ = ExceptionGroup("cause", [inner])
    return error


SHAPES: dict[str, Callable[[], BaseException]] = {
    "causes": lambda: chain("__cause__"),
    "contexts": lambda: chain("__context__"),
    "deep group": deep_group,
    "shared group": shared_group,
    "alternating": alternating,
    "wide group": lambda: ExceptionGroup("wide", [ValueError("x" * 1000) for _ in range(100_000)]),
    "group of itself": lambda: SelfContaining("itself", [ValueError()]),
    "growing group": lambda: Growing("growing", [ValueError()]),
    "enormous message": lambda: ValueError("x" * 10**8),
    "slow message": SlowMessage,
}
