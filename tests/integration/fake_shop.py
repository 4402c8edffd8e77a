"""What stands for an author's own code in the examples of docs/jobs.md: `myapp.shop`. It tells a file what is done."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

ALBUMS = {"sea": 12}
_unlocked: set[str] = set()


def record(line: str) -> None:
    """Write a line into the file that the test reads."""
    with Path(os.environ["SHOP_LOG"]).open("a") as file:
        file.write(f"{line}\n")


async def charge(customer: str, key: str) -> None:
    """Take money from a customer."""
    await asyncio.sleep(0.05)
    record(f"charged {customer} {key}")


def locked(album: str) -> bool:
    """Tell whether somebody else has the album: the first one who asks is told so."""
    return album not in _unlocked and not _unlocked.add(album)  # type: ignore[func-returns-value]


def copy(album: str) -> int:
    """Copy an album; return how many photos it has."""
    return ALBUMS[album]


class Camera:
    """What must be closed."""

    def __init__(self, job_id: object) -> None:
        self._job_id = job_id

    def discard(self) -> None:
        """Throw away what is recorded."""
        record(f"discarded {self._job_id}")

    def close(self) -> None:
        """Close it."""
        record(f"closed {self._job_id}")
