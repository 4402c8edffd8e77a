"""Exceptions of any shape are read within limits."""

from __future__ import annotations

import time

import pytest

from services.runtime.exception_tree import (
    MAX_EXCEPTIONS,
    bounded_copy,
    leaf_exceptions,
    message_of,
    type_name,
)
from services.runtime.tracebacks import Traceback
from services.worker.outcomes import outcome_from_exception
from tests.unit.services.runtime.exception_shapes import MAX_S, SHAPES, chain, deep_group, shared_group


@pytest.mark.parametrize("shape", SHAPES)
def test_any_exception_is_read_in_time(shape: str) -> None:
    """Traceback, outcome and leaves of an exception take a limited time and space."""
    error, started_at = SHAPES[shape](), time.process_time()
    trace, outcome, leaves = Traceback.of(error), outcome_from_exception(error), len(list(leaf_exceptions(error)))
    assert time.process_time() - started_at < MAX_S
    assert trace.text
    assert len(trace.text) + len(str(trace.where)) + len(str(outcome)) < 200_000
    assert leaves >= 1


def test_leaves_of_a_deep_group() -> None:
    """The depth of a group is not limited by Python's recursion limit, and a shared leaf is yielded once."""
    assert [str(leaf) for leaf in leaf_exceptions(deep_group())] == ["leaf"]
    assert [str(leaf) for leaf in leaf_exceptions(shared_group())] == ["leaf"]


def test_leaves_are_in_order() -> None:
    """Leaves have the order in which a traceback shows them."""
    inner = ExceptionGroup("inner", [KeyError(2), KeyError(3)])
    group = ExceptionGroup("outer", [KeyError(1), inner, KeyError(4)])
    assert [leaf.args[0] for leaf in leaf_exceptions(group)] == [1, 2, 3, 4]


def test_copy_has_names_messages_and_notes() -> None:
    """A copy is formatted like the original."""
    error = KeyError("name")
    error.add_note("a note")
    copy = bounded_copy(error)
    assert (type_name(copy), str(copy), copy.__notes__) == ("KeyError", "'name'", ["a note"])
    assert type_name(copy) == type(copy).__qualname__ == "KeyError"


def test_copy_is_limited() -> None:
    """A copy has at most `MAX_EXCEPTIONS` exceptions, the outer ones."""
    copy: BaseException | None = bounded_copy(chain("__context__"))
    length = 0
    while copy is not None:
        copy, length = copy.__context__, length + 1
    assert length == MAX_EXCEPTIONS


def test_message_that_raises_is_empty() -> None:
    """The `__str__` of an exception may raise anything."""

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    assert message_of(Unprintable()) == ""
