"""The output and the errors of the commands for poison messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.cli.command import main
from headway.cli.text import printable_json


@given(st.recursive(st.text() | st.floats(allow_nan=False), lambda inner: st.dictionaries(st.text(), inner)))
def test_printable_json_escapes_control_characters(value: Any) -> None:
    """The JSON decodes to the same value, and contains no control character but newlines."""
    text = printable_json(json.dumps(value, ensure_ascii=False, indent=1))
    assert json.loads(text) == value
    assert all(character.isprintable() or character == "\n" for character in text)


def test_invalid_queue_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A queue that Azure would refuse is an error of the command, and no request is sent."""
    assert main(["poison", "list", "--queue", "two--hyphens"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("headway: --queue: Expected 3 to 56 ")
