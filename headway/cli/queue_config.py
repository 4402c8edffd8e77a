"""The queue that an operator's command uses: the one in the environment, or the local one of `make up`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from headway.azure.account import check_account_url, check_api_version, check_connection_string, check_queue_name
from headway.utf8_text import read_file, variable

LOCAL_ENV = Path(".headway/env")  # written by `make up`
PATH_VARIABLE = "QUEUE_CONNECTION_STRING_FILE"
ACCOUNT_VARIABLES = ("QUEUE_CONNECTION_STRING", PATH_VARIABLE, "QUEUE_ACCOUNT_URL")
VARIABLES = ("QUEUE_CONNECTION_STRING", "QUEUE_ACCOUNT_URL", "QUEUE_NAME", "QUEUE_API_VERSION")


class QueueConfig(NamedTuple):
    """A queue's account and name."""

    account: str  # a connection string, or the URL of an account
    name: str
    api_version: str | None  # None for the default

    def __repr__(self) -> str:
        return f"<QueueConfig {self.name}>"


def find_queue(environ: Mapping[str, str], name: str | None = None, local_env: Path = LOCAL_ENV) -> QueueConfig:
    """Return the queue to use.

    Args:
        environ: environment variables with the settings of the services.
        name: the name of the queue, which overrides `QUEUE_NAME`.
        local_env: a file of `KEY=value` lines, which is read if the environment has no account.

    Raises:
        ValueError: there is no account, or more than one, or a setting is invalid.
        OSError: a file of settings cannot be read.
    """
    settings = {name: value for name in VARIABLES if (value := variable(name, environ)) is not None}
    if path := environ.get(PATH_VARIABLE):
        settings[PATH_VARIABLE] = path  # as Python decodes paths
    if not settings.keys() & set(ACCOUNT_VARIABLES) and local_env.exists():
        settings = _read_env_file(local_env) | settings
    if name:
        _check("--queue", check_queue_name, name)
    elif "QUEUE_NAME" in settings:
        _check("QUEUE_NAME", check_queue_name, name := settings["QUEUE_NAME"])
    if "QUEUE_API_VERSION" in settings:
        _check("QUEUE_API_VERSION", check_api_version, settings["QUEUE_API_VERSION"])
    return QueueConfig(_account(settings), name or "jobs", settings.get("QUEUE_API_VERSION"))


def _read_env_file(path: Path) -> dict[str, str]:
    lines = [line.partition("=") for line in read_file(path).splitlines()]
    return {key: value for key, _, value in lines if value}


def _account(settings: Mapping[str, str]) -> str:
    string, file, url = map(settings.get, ACCOUNT_VARIABLES)
    if (string or file) and url:
        raise ValueError("QUEUE_CONNECTION_STRING and QUEUE_ACCOUNT_URL: set only one of them")
    if url:
        _check("QUEUE_ACCOUNT_URL", check_account_url, url)
        return url
    account = string or (read_file(Path(file)).strip() if file else None)
    if not account:
        raise ValueError(
            "no queue is configured: set QUEUE_CONNECTION_STRING or QUEUE_ACCOUNT_URL, "
            f"or run the command in the folder that contains {LOCAL_ENV}"
        )
    _check("QUEUE_CONNECTION_STRING", check_connection_string, account)
    return account


def _check(source: str, check: Callable[[str], None], value: str) -> None:
    """Check a value; if it is invalid, raise ValueError with its source, a variable or an option, in the message."""
    try:
        check(value)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
