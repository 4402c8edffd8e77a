"""The values that a handler passes for display: any object becomes a text or a finite number, and none raises."""

from __future__ import annotations

import math
import operator
from typing import Any

from headway.contracts import MAX_PROGRESS_MESSAGE_LENGTH, truncate
from headway.type_name import type_name

MAX_EXACT = 2**53  # a float can represent each integer up to this one


def to_text(value: object) -> str:
    """Return `str(value)`, cut to the longest message, or the name of the value's type if `str` raises."""
    try:
        return truncate(str.__str__(str(value)), MAX_PROGRESS_MESSAGE_LENGTH)  # it may be of an author's subclass
    except Exception:  # of the author's `__str__`
        return truncate(type_name(value), MAX_PROGRESS_MESSAGE_LENGTH)


def to_amount(value: Any) -> int | float | None:
    """Return any kind of number (NumPy has its own) as a plain one, or None if it is not a finite number."""
    try:
        number = _plain_number(value)
        return number if math.isfinite(number) else None
    except Exception:  # of the author's `__index__` or `__float__`; OverflowError if a float cannot hold the number
        return None


def is_less(first: Any, second: Any) -> bool:
    """Return whether a number of any kind is less than another one; False if they cannot be compared."""
    try:
        return bool(first < second)
    except Exception:  # of the author's `__lt__`
        return False


def below(number: float) -> float:
    """Return the greatest plain number below a positive one."""
    return number - 1 if isinstance(number, int) and number > MAX_EXACT else math.nextafter(number, 0.0)


def _plain_number(value: Any) -> int | float:
    try:
        number = int(operator.index(value))
    except TypeError:
        return float(value)
    return number if number.bit_length() < 64 else float(number)
