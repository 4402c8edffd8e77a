"""The queue that an operator's command uses: from the services' settings, or that of `make up`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

LOCAL_ENV = Path(".headway/env")  # what `make up` writes
ACCOUNT_VARIABLES = ("QUEUE_CONNECTION_STRING", "QUEUE_CONNECTION_STRING_FILE", "QUEUE_ACCOUNT_URL")


class QueueConfig(NamedTuple):
    """A queue's account and name."""

    account: str  # a connection string or an account's URL
    name: str
    api_version: str | None  # None: the default

    def __repr__(self) -> str:
        return f"<QueueConfig {self.name}>"


def find_queue(environ: Mapping[str, str], name: str | None = None, local_env: Path = LOCAL_ENV) -> QueueConfig:
    """Return the queue that the environment names, or the local one; raise ValueError without either.

    `name` overrides the environment.
    """
    settings = {key: value for key, value in environ.items() if value}
    if not settings.keys() & set(ACCOUNT_VARIABLES) and local_env.exists():
        settings = _read_env_file(local_env) | settings
    return QueueConfig(
        _account(settings), name or settings.get("QUEUE_NAME", "jobs"), settings.get("QUEUE_API_VERSION")
    )


def _read_env_file(path: Path) -> dict[str, str]:
    lines = [line.partition("=") for line in path.read_text().splitlines()]
    return {key: value for key, _, value in lines if value}


def _account(settings: Mapping[str, str]) -> str:
    string, file, url = map(settings.get, ACCOUNT_VARIABLES)
    if (string or file) and url:
        raise ValueError("QUEUE_CONNECTION_STRING and QUEUE_ACCOUNT_URL: set one of them")
    if url:
        if not url.startswith("https://"):
            raise ValueError("QUEUE_ACCOUNT_URL: expected an https address: an identity is shown to no other")
        return url
    account = string or (Path(file).read_text().strip() if file else None)
    if not account:
        raise ValueError(f"no queue: set QUEUE_CONNECTION_STRING or QUEUE_ACCOUNT_URL, or be where {LOCAL_ENV} is")
    return account
