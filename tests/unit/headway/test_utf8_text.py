"""Texts from outside are UTF-8, whatever the locale is."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headway.utf8_text import NotUtf8, argument, decode_utf8, read_file, read_stdin, variable

TEXT = "Straße ☂"
BOM = "\ufeff"
LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"},
    {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1"},
]
PROGRAM = """
import json, sys
from pathlib import Path
from headway.utf8_text import argument, read_file, read_stdin, variable
print(json.dumps([read_file(Path(sys.argv[1])), read_stdin(), variable("VALUE"), argument(sys.argv[2], "x")]))
"""


@pytest.mark.parametrize("environment", LOCALES, ids=str)
@pytest.mark.parametrize("mark", ["", BOM], ids=["plain", "bom"])
def test_locale_does_not_matter(environment: dict[str, str], mark: str, tmp_path: Path) -> None:
    """Files, stdin, variables and arguments are read as UTF-8."""
    (tmp_path / "text").write_bytes(f"{mark}{TEXT}".encode())
    values = {**environment, "VALUE": f"{mark}{TEXT}"}
    completed = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "text"), TEXT.encode()],
        input=f"{mark}{TEXT}".encode(),
        env={**os.environb, **{os.fsencode(name): os.fsencode(value) for name, value in values.items()}},
        capture_output=True,
        check=True,
    )
    assert json.loads(completed.stdout) == [TEXT] * 4


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"\xff", "0xff at position 0 (line 1)"),
        (b"abc\xc3", "0xc3 at position 3 (line 1)"),
        ("Stra\u00dfe".encode("latin-1"), "0xdf at position 4 (line 1)"),
        (b"\xef\xbb\xbfa\nb\n\xe9", "0xe9 at position 7 (line 3)"),
        ("x".encode("utf-16"), "0xff at position 0 (line 1)"),
    ],
)
def test_invalid_text_names_source_and_position(
    data: bytes, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says where the first invalid byte is."""
    (tmp_path / "text").write_bytes(data)
    with pytest.raises(NotUtf8) as raised:
        read_file(tmp_path / "text")
    assert str(raised.value) == f"{tmp_path / 'text'} is not UTF-8: invalid byte {place}"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(NotUtf8, match=r"^stdin is not UTF-8: invalid byte"):
        read_stdin()
    with pytest.raises(NotUtf8, match=r"^VALUE is not UTF-8: invalid byte"):
        variable("VALUE", {"VALUE": os.fsdecode(data)})
    with pytest.raises(NotUtf8, match=r"^the kind is not UTF-8: invalid byte"):
        argument(os.fsdecode(data), "the kind")


def test_closed_stdin_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program can be started without stdin."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(OSError, match="stdin is closed"):
        read_stdin()


def test_only_a_mark_at_the_start_is_removed() -> None:
    """Elsewhere it is a character of the text."""
    assert decode_utf8(f"{BOM}a{BOM}".encode(), "x") == f"a{BOM}"


def test_empty_variable_is_not_set() -> None:
    """White space around a value is removed."""
    assert [variable("A", environ) for environ in ({}, {"A": ""}, {"A": " "}, {"A": " b\n"})] == [None, None, None, "b"]
