"""Detection of leaked secrets: tokens, keys and payloads in logs and in the output of processes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

MARKER = "payload-that-must-not-be-logged"  # tests put it into payloads
_TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}")


def find_secrets(text: str, keys: Iterable[str] = ()) -> list[str]:
    """Return an excerpt for each secret in a text, with up to 60 characters before it."""
    positions = [match.start() for match in _TOKEN.finditer(text)]
    positions += [text.index(secret) for secret in (MARKER, *keys) if secret in text]
    return [text[max(0, start - 60) : start + 20] for start in positions]


def find_secrets_in_logs(folder: Path) -> list[str]:
    """Search the logs below a folder for tokens, marked payloads, and the keys of that folder.

    Returns:
        One line per secret, with the path of the log.
    """
    keys = {line.strip() for path in folder.rglob("*.key*") if path.is_file() for line in _read(path).splitlines()}
    keys = {key for key in keys if len(key) >= 16}
    return [f"{path}: {leak}" for path in _logs(folder) for leak in find_secrets(_read(path), keys)]


def _logs(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and (path.suffix == ".log" or path.parent.name == "logs"):
            yield path


def _read(path: Path) -> str:
    return path.read_text(errors="replace")
