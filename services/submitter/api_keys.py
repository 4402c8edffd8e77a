"""API keys and what they permit. `SUBMITTER_API_KEYS` has one key per line; its roles and its name may follow."""

from __future__ import annotations

import hashlib
import re
from enum import Flag, auto
from itertools import takewhile

from msgspec import Struct


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


class ApiKey(Struct, frozen=True):
    """What is known of an API key.

    Attributes:
        name: stands for the key in logs.
        permissions: what the key permits.
    """

    name: str
    permissions: Permission


ROLES = {
    "submit": Permission.SUBMIT | Permission.LABEL | Permission.ISSUE,
    "operate": Permission.SUBMIT | Permission.LABEL | Permission.ISSUE | Permission.OPERATE,
}
DEFAULT_ROLE = "submit"
ANONYMOUS = "anyone"  # stands for all callers without a key in logs, so that no key can have this name
NAME_OPTION = "name="
NAME = re.compile(r"[\w.@+-]{1,64}")
DIGEST_LENGTH = 8  # of the default name: enough to distinguish keys


def key_digest(key: str) -> str:
    """Return the digest that stands for an API key."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()  # a header may hold any byte


def read_api_keys(text: str) -> dict[str, ApiKey]:
    """Parse a file of API keys; comments start with `#`.

    A line is a key, its roles and its name: `<key> operate name=alice`. By default the name is the start of its digest.

    Returns:
        The keys by digest. The duration of a look-up by digest says nothing about a key.

    Raises:
        ValueError: the file has no key, or a role or a name is invalid. The message has the line's number, not its
            text: the word may be a part of a key.
    """
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = list(takewhile(lambda word: not word.startswith("#"), line.split()))
        if not words:
            continue
        digest = key_digest(words[0])
        known = keys.get(digest, ApiKey(digest[:DIGEST_LENGTH], Permission(0)))
        try:
            name, permissions = _read_options(words[1:])
        except ValueError as error:
            raise ValueError(f"line {number} {error}") from None  # the cause has the text
        keys[digest] = ApiKey(name or known.name, known.permissions | permissions)
    if not keys:
        raise ValueError("the key file contains no key")
    return keys


def _read_options(words: list[str]) -> tuple[str | None, Permission]:
    """Return the name and the permissions that follow a key."""
    names = [word.removeprefix(NAME_OPTION) for word in words if word.startswith(NAME_OPTION)]
    roles = [word for word in words if not word.startswith(NAME_OPTION)] or [DEFAULT_ROLE]
    if not ROLES.keys() >= set(roles):
        raise ValueError(f"has an unknown role; after a key, expected {', '.join(ROLES)} or {NAME_OPTION}<name>")
    if len(names) > 1 or not all(map(NAME.fullmatch, names)) or ANONYMOUS in names:
        message = f"has an invalid name; expected one of up to 64 letters, digits and . _ @ + -, and not {ANONYMOUS!r}"
        raise ValueError(message)
    permissions = Permission(0)
    for role in roles:
        permissions |= ROLES[role]
    return (names[0] if names else None), permissions
