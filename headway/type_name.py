"""The name of a value's type, for messages about values of unknown types."""

from __future__ import annotations


def type_name(value: object) -> str:
    """Return the name of a value's type, although its metaclass may define another `__name__`, which may raise."""
    return str.__str__(type.__dict__["__name__"].__get__(type(value)))  # the name may be an instance of a subclass
