"""A fake of `myapp.shop`, the author's own code in the examples of docs/write-jobs.md. It logs its calls to a file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

ALBUMS = {"sea": 12}
_unlocked: set[str] = set()


def record(line: str) -> None:
    """Append a line to the log that the test reads."""
    with Path(os.environ["SHOP_LOG"]).open("a") as file:
        file.write(f"{line}\n")


async def charge(customer: str, key: str) -> None:
    """Charge a customer."""
    await asyncio.sleep(0.05)
    record(f"charged {customer} {key}")


def locked(album: str) -> bool:
    """Return whether an album is locked: True for the first call, False afterwards."""
    return album not in _unlocked and not _unlocked.add(album)  # type: ignore[func-returns-value]


def copy(album: str) -> int:
    """Copy an album; return its number of photos."""
    return ALBUMS[album]


class Camera:
    """A resource that a handler must close."""

    def __init__(self, job_id: object) -> None:
        self._job_id = job_id

    def discard(self) -> None:
        """Discard the recording."""
        record(f"discarded {self._job_id}")

    def close(self) -> None:
        """Close the camera."""
        record(f"closed {self._job_id}")
