"""Keeping an error in the delivery to one client from the others, and from the loops that serve all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Recipient(Protocol):
    """A client connection, or a part of one."""

    def on_failure(self, error: Exception) -> None:
        """Called with an error that another method has raised, which is a bug: log it, and disconnect."""


@contextmanager
def isolated(recipient: Recipient) -> Iterator[None]:
    """Call a recipient in the block. If it raises an error, which is a bug, nothing else is affected."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the recipient logs it
        recipient.on_failure(error)
