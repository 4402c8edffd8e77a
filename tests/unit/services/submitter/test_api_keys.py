"""Files of API keys, and what each key permits."""

from __future__ import annotations

import pytest

from services.submitter.api_keys import ApiKey, Permission, key_digest, read_api_keys

SUBMIT = Permission.SUBMIT | Permission.LABEL | Permission.ISSUE
OPERATE = SUBMIT | Permission.OPERATE
DEFAULT_NAME = key_digest("key")[:8]


@pytest.mark.parametrize(
    ("line", "permissions"),
    [
        ("key", SUBMIT),
        ("  key\t", SUBMIT),
        ("key submit", SUBMIT),
        ("key operate", OPERATE),
        ("key submit  operate", OPERATE),
        ("key # operate", SUBMIT),
        ("key operate  #for the dashboard", OPERATE),
        ("key\nkey operate", OPERATE),
    ],
)
def test_roles_follow_a_key(line: str, permissions: Permission) -> None:
    """Without a role, a key may submit; an operator may do everything; the rest of a line is a comment."""
    assert read_api_keys(f"# ours\n\n{line}\r\n") == {key_digest("key"): ApiKey(DEFAULT_NAME, permissions)}


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("key name=alice", ApiKey("alice", SUBMIT)),
        ("key name=josé@example.org operate", ApiKey("josé@example.org", OPERATE)),
        ("key operate name=on-call\nkey", ApiKey("on-call", OPERATE)),
        ("key # name=alice", ApiKey(DEFAULT_NAME, SUBMIT)),
    ],
)
def test_a_name_follows_a_key(line: str, key: ApiKey) -> None:
    """A name stands for its key in logs, and without one the start of the key's digest."""
    assert read_api_keys(line) == {key_digest("key"): key}


@pytest.mark.parametrize(
    "options", ["name=", "name=<script>", "name=anyone", f"name={65 * 'x'}", "name=a operate name=b"]
)
def test_an_invalid_name_is_an_error_without_the_text_of_the_line(options: str) -> None:
    """The error has the line's number, and what a name may have."""
    with pytest.raises(ValueError, match=r"^line 2 has an invalid name; expected one of up to 64 letters, digits and"):
        read_api_keys(f"one\nsecret {options}")


def test_a_key_may_contain_the_sign_of_a_comment() -> None:
    """A comment begins with a word, not in the middle of one, and a key may have any other character."""
    assert read_api_keys("a#b\nschlüssel").keys() == {key_digest("a#b"), key_digest("schlüssel")}


@pytest.mark.parametrize("text", ["one\nsecret admin", "one\nsecret operate hunter2", "one\nmy secret"])
def test_an_unknown_role_is_an_error_without_the_text_of_the_line(text: str) -> None:
    """The error has the line's number; its words may be parts of a key."""
    with pytest.raises(
        ValueError, match=r"^line 2 has an unknown role; after a key, expected submit, operate or name=<name>$"
    ):
        read_api_keys(text)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n  # more\n"])
def test_a_file_without_a_key_is_an_error(text: str) -> None:
    """A submitter does not start with keys that admit no caller."""
    with pytest.raises(ValueError, match="contains no key"):
        read_api_keys(text)
