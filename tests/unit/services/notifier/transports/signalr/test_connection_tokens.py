"""The tokens of SignalR connections."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.timestamp import Timestamp
from services.notifier.transports.signalr.connection_tokens import ConnectionTokens
from services.runtime.settings import ReloadingFile, read_keys

NOW = Timestamp(1_700_000_000_123)


def tokens(folder: Path, *keys: str) -> ConnectionTokens:
    """Return the tokens of a replica with these report keys."""
    file = folder / "report.key"
    file.write_text("\n".join(keys))
    return ConnectionTokens(ReloadingFile(file, read_keys))


def test_another_replica_accepts_a_token(tmp_path: Path) -> None:
    """It knows the connection and when it was negotiated, also while the report key is being replaced."""
    connection, token = tokens(tmp_path, "one").issue(NOW)
    assert connection.issued_at == NOW
    assert tokens(tmp_path, "two", "one").verify(token) == connection
    assert tokens(tmp_path, "two").verify(token) is None


def test_tokens_need_no_encoding(tmp_path: Path) -> None:
    """They have only characters that mean themselves in a URL, and no two are the same."""
    replica = tokens(tmp_path, "one")
    issued = {replica.issue(NOW)[1] for _ in range(100)}
    assert len(issued) == 100
    assert not set("".join(issued)) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@pytest.mark.parametrize("position", range(4))
def test_changed_tokens_are_refused(tmp_path: Path, position: int) -> None:
    """No part of a token can be changed."""
    replica = tokens(tmp_path, "one")
    parts = replica.issue(NOW)[1].split(".")
    parts[position] = ("0" if parts[position][0] != "0" else "1") + parts[position][1:]
    assert replica.verify(".".join(parts)) is None


@pytest.mark.parametrize("token", ["", ".", "1...", "a" * 10_000, "1.é.0.é", "null"])
def test_other_texts_are_refused(tmp_path: Path, token: str) -> None:
    """Whatever a client sends in place of a token is refused."""
    assert tokens(tmp_path, "one").verify(token) is None
