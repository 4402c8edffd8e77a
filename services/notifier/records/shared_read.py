"""A read whose result clients share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SharedRead(Generic[T]):
    """Reads a value at most once at a time, and again only when the last one is too old or failed.

    Args:
        read: reads the value.
        max_age_s: how old the value may be.
    """

    def __init__(self, read: Callable[[], Coroutine[Any, Any, T]], max_age_s: float) -> None:
        self._read = read
        self._max_age_s = max_age_s
        self._reading: asyncio.Task[T] | None = None
        self._read_at = 0.0

    async def get(self) -> T:
        """Return the value, or raise the error of the read, which concurrent callers share."""
        is_old = time.monotonic() - self._read_at > self._max_age_s
        if self._reading is None or (self._reading.done() and (is_old or self._reading.exception())):
            self._reading, self._read_at = asyncio.create_task(self._read()), time.monotonic()
        return await asyncio.shield(self._reading)
