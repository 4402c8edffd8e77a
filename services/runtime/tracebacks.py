"""Where an exception was raised and what a thread executes, as lines with file, line number and function.

The text of an exception may contain a payload, so it is kept apart: it is logged only with `LOG_TRACEBACKS`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import re
import tempfile
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from msgspec import Struct

from .exception_tree import bounded_copy, type_name

TRACEBACK_TEXT = "traceback_text"  # the field of a log line that only `LOG_TRACEBACKS` shows
MAX_FRAMES = 20  # of one exception or thread, the innermost ones
MAX_TEXT_FRAMES = 100  # of one exception in the text, the innermost ones
MAX_NAME_LENGTH = 500  # characters of a file's or function's name
MAX_TEXT_LENGTH = 65_536  # characters, the last ones: they name the exception that was raised


class Traceback(Struct, frozen=True):
    """The traceback of an exception.

    Attributes:
        where: file, line number and function of each frame, the innermost last. The exceptions of a group, and those
            that caused this one, follow, each after a line with its type.
        text: the traceback as Python prints it, with the messages of the exceptions.

    Both are cut to their limits: a chain of exceptions, a group and a recursion can be of any size.
    """

    where: list[str]
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Traceback:
        """Return the traceback of any exception in a limited time."""
        copy = bounded_copy(error)
        return cls(list(_where(copy)), _text(copy))

    def log_fields(self) -> dict[str, Any]:
        """Return the fields of a log line; `logs.configure` decides whether the text is shown."""
        return {"where": self.where, TRACEBACK_TEXT: self.text}


def error_fields(error: BaseException) -> dict[str, Any]:
    """Return the fields of a log line for an exception: its type and its traceback."""
    return {"error": type_name(error), **Traceback.of(error).log_fields()}


def thread_stack(thread_id: int) -> list[str]:
    """Return file, line number and function of each frame that a thread executes now, the innermost last."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        dump = file.read().decode(errors="replace")
    stack = re.search(rf"hread 0x0*{thread_id:x}\b.*\n((?:  .*\n)*)", dump)
    frames = re.findall(r'  File "(.*)", line (\S+) in (.*)\n', stack[1] if stack else "")
    return _lines(reversed(frames[:MAX_FRAMES]))


def task_stack(task: asyncio.Task[Any]) -> list[str]:
    """Return file, line number and function of each coroutine in which a task is suspended, the innermost last."""
    frames: list[tuple[str, int, str]] = []
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        frames.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        awaited = getattr(awaited, "cr_await", None)
    return _lines(frames[-MAX_FRAMES:])


def _where(copy: BaseException) -> Iterator[str]:
    for relation, one in _related(copy):
        if relation:
            yield f"{relation} {type_name(one)}"
        frames = deque(traceback.walk_tb(one.__traceback__), MAX_FRAMES)
        yield from _lines(
            (frame.f_code.co_filename, line_number, frame.f_code.co_name) for frame, line_number in frames
        )


def _related(copy: BaseException) -> Iterator[tuple[str, BaseException]]:
    """Yield an exception, those that it contains, and those that it was caused by, each with its relation."""
    pending = [("", copy)]
    while pending:
        relation, one = pending.pop()
        yield relation, one
        if one.__cause__ is not None:
            pending.append(("caused by", one.__cause__))
        elif one.__context__ is not None:
            pending.append(("raised while handling", one.__context__))
        if isinstance(one, BaseExceptionGroup):
            pending += [("containing", part) for part in reversed(one.exceptions)]


def _lines(frames: Iterable[tuple[str, object, str]]) -> list[str]:
    lines = (
        f"{file[-MAX_NAME_LENGTH:]}:{line_number} {function[:MAX_NAME_LENGTH]}"
        for file, line_number, function in frames
    )
    return [_encodable(line) for line in lines]


def _text(copy: BaseException) -> str:
    with suppress(BaseException):  # the lines of the source come from the loader of the author's module
        return _encodable("".join(traceback.format_exception(copy, limit=-MAX_TEXT_FRAMES))[-MAX_TEXT_LENGTH:])
    return ""


def _encodable(text: str) -> str:
    """Replace lone surrogates, which file names and messages may contain, and UTF-8 cannot encode."""
    return text.encode(errors="replace").decode()
