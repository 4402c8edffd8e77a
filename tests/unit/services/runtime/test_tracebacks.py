"""The place of an exception: the lines of its traceback, without its text."""

from __future__ import annotations

import threading
import traceback
from typing import Any

import pytest

from services.runtime import exception_tree, tracebacks
from services.runtime.tracebacks import Traceback, thread_stack
from tests.waiting import PATIENCE_S, wait_until


def fail_deeply(depth: int) -> None:
    """Raise below some frames."""
    if depth:
        fail_deeply(depth - 1)
    raise ValueError("secret")


def caught(error: Exception) -> Exception:
    """Return an exception, after it was raised in this function."""
    with pytest.raises(type(error)):
        raise error
    return error


def test_place_has_file_line_and_function() -> None:
    """The innermost frame is the last one."""
    with pytest.raises(ValueError, match="secret") as info:
        fail_deeply(2)
    where = Traceback.of(info.value).where
    assert [line.rpartition(" ")[2] for line in where[1:]] == ["fail_deeply"] * 3
    assert where[-1] == f"{__file__}:{fail_deeply.__code__.co_firstlineno + 4} fail_deeply"


def test_group_names_the_lines_of_its_exceptions() -> None:
    """Each exception of a group, at any depth, follows with its type and its lines."""
    inner = ExceptionGroup("secret", [caught(KeyError("secret"))])
    where = Traceback.of(caught(ExceptionGroup("secret", [caught(ValueError("secret")), inner]))).where
    own = [line for line in where if not line.startswith(__file__)]
    assert own == ["containing ValueError", "containing ExceptionGroup", "containing KeyError"]
    assert len([line for line in where if line.endswith(" caught")]) == 3
    assert "secret" not in str(where)


def test_causes_are_named() -> None:
    """The cause and, without one, the exception that was handled follow; one that `from None` suppresses does not."""
    error = caught(ValueError())
    error.__cause__, error.__context__ = caught(KeyError()), caught(OSError())
    assert [line for line in Traceback.of(error).where if line.startswith("caused")] == ["caused by KeyError"]
    error = caught(ValueError())
    error.__context__ = caught(OSError())
    assert "raised while handling OSError" in Traceback.of(error).where
    error.__suppress_context__ = True
    assert len(Traceback.of(error).where) == 1


def test_size_is_limited() -> None:
    """Of a deep recursion the innermost frames are kept, and of a long chain the first exceptions."""
    with pytest.raises(ValueError, match="secret") as info:
        fail_deeply(100)
    assert len(Traceback.of(info.value).where) == tracebacks.MAX_FRAMES
    error: BaseException = ValueError()
    first, error.__cause__ = error, error  # in a circle
    for _ in range(100):
        error.__cause__ = error = ValueError()
    assert len(Traceback.of(first).where) == exception_tree.MAX_EXCEPTIONS - 1


def test_exception_that_cannot_be_formatted_has_a_place() -> None:
    """Python calls methods of an exception to format it; they may raise."""

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    assert Traceback.of(caught(Unprintable())).where
    assert "KeyboardInterrupt" not in Traceback.of(caught(Unprintable())).text


def test_text_is_limited() -> None:
    """The text ends with the exception that was raised, whatever the number and the length of all messages."""
    error = ValueError("x" * 10**8)
    for _ in range(20_000):
        error.__context__, error = ValueError("earlier " * 1000), error
    assert len(Traceback.of(caught(error)).text) <= tracebacks.MAX_TEXT_LENGTH


def test_names_are_limited() -> None:
    """Code that a program compiles can have names of any length."""
    file, function = f"{'f' * 10**6}.py", "g" * 10**6
    scope: dict[str, Any] = {}
    exec(compile(f"def {function}(): raise KeyError\n", file, "exec"), scope)
    with pytest.raises(KeyError) as raised:
        scope[function]()
    trace = Traceback.of(raised.value)
    assert len(str(trace.where)) < 3000
    assert trace.where[-1].startswith("f")
    assert ".py:1 g" in trace.where[-1]
    assert len(trace.text) <= tracebacks.MAX_TEXT_LENGTH


def test_text_is_as_python_prints_it() -> None:
    """Causes, contexts, notes and the exceptions of a group are shown as usual."""
    error = caught(ExceptionGroup("two", [caught(ValueError("first")), caught(KeyError("second"))]))
    error.add_note("a note")
    error.__cause__ = caught(OSError("cause"))
    error.__cause__.__context__ = caught(TypeError("context"))
    assert Traceback.of(error).text == "".join(traceback.format_exception(error))


async def test_stack_of_a_thread() -> None:
    """The innermost frame of another thread is the last line."""
    finish = threading.Event()

    def wait_in_thread() -> None:
        finish.wait(PATIENCE_S)

    thread = threading.Thread(target=wait_in_thread)
    thread.start()
    await wait_until(lambda: [line for line in thread_stack(thread.ident or 0) if "wait_in_thread" in line])
    finish.set()
    thread.join()
    assert thread_stack(1) == []
