"""Exceptions of job authors, with those that they contain and were caused by, read within limits.

An author's class may override any attribute, so these are read as the base class defines them: no code of the author
runs, except `__str__`. A chain may have any length, and a group any depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from headway.contracts import MAX_ERROR_LENGTH, MAX_NAME_LENGTH, truncate

MAX_EXCEPTIONS = 10  # of a chain or group, in its copy
MAX_NOTES = 10
MAX_GROUP_MEMBERS = 100_000  # that `leaf_exceptions` reads


class _CopiedException(BaseException):
    """A copy of an exception with its message."""

    message = ""

    def __str__(self) -> str:
        return self.message


class _CopiedGroup(_CopiedException, BaseExceptionGroup[BaseException]):
    """A copy of an exception group."""


def bounded_copy(error: BaseException) -> BaseException:
    """Return a copy of an exception that Python formats like the original, but in a limited time.

    It has the first `MAX_EXCEPTIONS` of the exceptions in a group and of the causes, with messages cut to their limit,
    and consists of plain values.
    """
    copy = _copy(error, set())
    assert copy is not None  # noqa: S101 - the first exception is within the limit
    return copy


def type_name(error: BaseException) -> str:
    """Return the name of an exception's type, although its metaclass may define another `__name__`."""
    return _type_attribute(error, "__name__")


def message_of(error: BaseException) -> str:
    """Return the message of an exception, cut to its limit; an empty text if it has none that can be read."""
    try:
        text = str.__str__(str(error))  # `__str__` may return an instance of a subclass
    except BaseException:  # noqa: BLE001 - the `__str__` of an author's exception may raise anything
        return ""
    return truncate(text, MAX_ERROR_LENGTH)


def is_group(error: BaseException) -> bool:
    """Return whether an exception is a group; `isinstance` would read `__class__`, which an author can override."""
    return issubclass(type(error), BaseExceptionGroup)


def leaf_exceptions(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions of a group, at any depth and in order, each once.

    An exception that is no group is its only leaf. At most `MAX_GROUP_MEMBERS` exceptions and groups are read.
    """
    pending: list[Iterator[BaseException]] = [iter([error])]
    seen: set[int] = set()
    while pending and len(seen) < MAX_GROUP_MEMBERS:
        one = next(pending[-1], None)
        if one is None:
            pending.pop()
        elif id(one) not in seen:
            seen.add(id(one))
            if is_group(one):
                pending.append(iter(_members(one)))
            else:
                yield one


def _copy(error: BaseException, seen: set[int]) -> BaseException | None:
    """Return a copy of an exception, or None if the limit is reached or the copy contains it already."""
    if len(seen) == MAX_EXCEPTIONS or id(error) in seen:  # exceptions can refer to each other in a circle
        return None
    seen.add(id(error))
    members = [copy for member in islice(_members(error), MAX_EXCEPTIONS) if (copy := _copy(member, seen)) is not None]
    copied = _empty_copy(error, members)
    for note in _notes(error):
        copied.add_note(note)
    cause, context = _attribute(error, "__cause__"), _attribute(error, "__context__")
    if cause is not None:
        copied.__cause__ = _copy(cause, seen)
    elif context is not None and not _attribute(error, "__suppress_context__"):
        copied.__context__ = _copy(context, seen)
    return copied.with_traceback(_attribute(error, "__traceback__"))


def _empty_copy(error: BaseException, members: list[BaseException]) -> BaseException:
    """Return an exception whose type has the names of the original's, with its message."""
    attributes = {name: _type_attribute(error, name) for name in ("__module__", "__qualname__")}
    attributes["message"] = message_of(error)
    copied_type: Any = type(type_name(error), (_CopiedGroup if members else _CopiedException,), attributes)
    copied: BaseException = copied_type("", members) if members else copied_type()
    return copied


def _members(error: BaseException) -> tuple[BaseException, ...]:
    members: tuple[BaseException, ...] = (
        vars(BaseExceptionGroup)["exceptions"].__get__(error) if is_group(error) else ()
    )
    return members


def _notes(error: BaseException) -> list[str]:
    notes = _attribute(error, "__dict__").get("__notes__")
    if type(notes) is not list:
        return []
    return [truncate(note, MAX_ERROR_LENGTH) for note in notes[:MAX_NOTES] if type(note) is str]


def _attribute(error: BaseException, name: str) -> Any:
    return vars(BaseException)[name].__get__(error)


def _type_attribute(error: BaseException, name: str) -> str:
    value = vars(type)[name].__get__(type(error))
    return truncate(str.__str__(value)[:MAX_NAME_LENGTH], MAX_NAME_LENGTH) if issubclass(type(value), str) else ""
