"""Which queue an operator means: as the services are told it, or beside `make up` the one that it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

LOCAL_ENV = Path(".headway/env")  # what `make up` writes
WAYS = ("QUEUE_CONNECTION_STRING", "QUEUE_CONNECTION_STRING_FILE", "QUEUE_ACCOUNT_URL")


class QueueAccess(NamedTuple):
    """A queue of jobs and the way to it."""

    account: str  # a connection string, or an account's address
    name: str
    api_version: str | None  # the default's

    def __repr__(self) -> str:
        return f"<QueueAccess to {self.name}>"


def find(environ: Mapping[str, str], name: str | None = None, local: Path = LOCAL_ENV) -> QueueAccess:
    """Find the queue that the environment names, or else the local one; ValueError when there is neither.

    `name` goes before the environment's.
    """
    given = {key: value for key, value in environ.items() if value}
    if not given.keys() & set(WAYS) and local.exists():
        given = _read(local) | given
    return QueueAccess(_account(given), name or given.get("QUEUE_NAME", "jobs"), given.get("QUEUE_API_VERSION"))


def _read(path: Path) -> dict[str, str]:
    lines = [line.partition("=") for line in path.read_text().splitlines()]
    return {key: value for key, _, value in lines if value}


def _account(given: Mapping[str, str]) -> str:
    string, file, url = map(given.get, WAYS)
    if (string or file) and url:
        raise ValueError("QUEUE_CONNECTION_STRING and QUEUE_ACCOUNT_URL: set one of them")
    if url:
        if not url.startswith("https://"):
            raise ValueError("QUEUE_ACCOUNT_URL: expected an https address: an identity is shown to no other")
        return url
    found = string or (Path(file).read_text().strip() if file else None)
    if not found:
        raise ValueError(f"no queue: set QUEUE_CONNECTION_STRING or QUEUE_ACCOUNT_URL, or be where {LOCAL_ENV} is")
    return found
