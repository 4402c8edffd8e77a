"""Looking for secrets where none may be: tokens, keys and payloads in logs and in what processes print."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

MARKER = "nobody-may-log-this-payload"
_TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}")


def find_secrets(text: str, keys: Iterable[str] = ()) -> list[str]:
    """Return the secrets that a text tells, each with a little of what stands before it."""
    positions = [match.start() for match in _TOKEN.finditer(text)]
    positions += [text.index(secret) for secret in (MARKER, *keys) if secret in text]
    return [text[max(0, start - 60) : start + 20] for start in positions]


def find_secrets_in_logs(folder: Path) -> list[str]:
    """Return what the logs below a folder tell of tokens, payloads, and the keys that lie there, too."""
    keys = {line.strip() for path in folder.rglob("*.key*") if path.is_file() for line in _read(path).splitlines()}
    keys = {key for key in keys if len(key) >= 16}
    return [f"{path}: {leak}" for path in _logs(folder) for leak in find_secrets(_read(path), keys)]


def _logs(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and (path.suffix == ".log" or path.parent.name == "logs"):
            yield path


def _read(path: Path) -> str:
    return path.read_text(errors="replace")
