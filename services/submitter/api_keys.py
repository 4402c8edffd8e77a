"""API keys and what they permit. `SUBMITTER_API_KEYS` has one key per line, which its roles may follow."""

from __future__ import annotations

import hashlib
from enum import Flag, auto
from itertools import takewhile


class Permission(Flag):
    """What a caller may do."""

    SUBMIT = auto()
    """Submit jobs."""
    LABEL = auto()
    """Give a job an owner and tags, by which tokens find it."""
    ISSUE = auto()
    """Issue tokens for jobs of other callers, and for lists."""
    OPERATE = auto()
    """See all jobs with their details, and act on them."""


ROLES = {
    "submit": Permission.SUBMIT | Permission.LABEL | Permission.ISSUE,
    "operate": Permission.SUBMIT | Permission.LABEL | Permission.ISSUE | Permission.OPERATE,
}
DEFAULT_ROLE = "submit"


def key_digest(key: str) -> str:
    """Return the digest that stands for an API key."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()  # a header may hold any byte


def read_api_keys(text: str) -> dict[str, Permission]:
    """Parse a file of API keys; comments start with `#`.

    Returns:
        The permissions of each key, by its digest. The duration of a look-up by digest says nothing about a key.

    Raises:
        ValueError: the file has no key, or a role is unknown. The message has the line's number, not its text: the word
            may be a part of a key.
    """
    keys: dict[str, Permission] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = list(takewhile(lambda word: not word.startswith("#"), line.split()))
        if not words:
            continue
        key, *roles = words
        for role in roles or [DEFAULT_ROLE]:
            if role not in ROLES:
                raise ValueError(f"line {number} has an unknown role; after a key, expected {' or '.join(ROLES)}")
            keys[key_digest(key)] = keys.get(key_digest(key), Permission(0)) | ROLES[role]
    if not keys:
        raise ValueError("the key file contains no key")
    return keys
