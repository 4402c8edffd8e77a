"""Arguments of commands: times, tokens and API keys."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import pytest

from headway.cli import arguments
from headway.contracts import Timestamp

NOW = Timestamp.parse("2026-01-08T12:00:00.000Z")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45s", "2026-01-08T11:59:15.000Z"),
        ("30min", "2026-01-08T11:30:00.000Z"),
        ("30 m", "2026-01-08T11:30:00.000Z"),
        ("12h", "2026-01-08T00:00:00.000Z"),
        ("7d", "2026-01-01T12:00:00.000Z"),
        ("1w", "2026-01-01T12:00:00.000Z"),
        ("9999999999w", "1970-01-01T00:00:00.000Z"),
        ("2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00.000Z"),
    ],
)
def test_a_time_is_absolute_or_a_duration(monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
    """A duration counts back from now."""
    monkeypatch.setattr(Timestamp, "now", lambda: NOW)
    assert str(arguments.time(text)) == expected


@pytest.mark.parametrize("text", ["", "12", "h", "-1h", "12 parsecs", "2026-01-01", "2026-01-01T00:00:00"])
def test_another_text_is_not_a_time(text: str) -> None:
    """The error shows what a time looks like."""
    with pytest.raises(argparse.ArgumentTypeError, match="12h"):
        arguments.time(text)


def test_an_api_key_comes_from_its_file_or_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file wins; an empty key is none."""
    file = tmp_path / "api.key"
    file.write_text("from the file\n")
    monkeypatch.setenv("HEADWAY_API_KEY", "from the environment")
    assert arguments.api_key(argparse.Namespace(api_key_file=file)) == "from the file"
    assert arguments.api_key(argparse.Namespace(api_key_file=None)) == "from the environment"
    monkeypatch.setenv("HEADWAY_API_KEY", "")
    assert arguments.api_key(argparse.Namespace(api_key_file=None)) is None


def test_a_token_comes_from_stdin_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty token is none."""
    monkeypatch.setenv("HEADWAY_TOKEN", " from the environment ")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from stdin\n")))
    assert arguments.token(argparse.Namespace(token_stdin=True)) == "from stdin"
    assert arguments.token(argparse.Namespace(token_stdin=False)) == "from the environment"
    monkeypatch.setenv("HEADWAY_TOKEN", "")
    assert arguments.token(argparse.Namespace(token_stdin=False)) is None
