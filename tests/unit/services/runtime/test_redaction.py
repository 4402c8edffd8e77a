"""The redactor: which secrets it removes from texts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.runtime.redaction import Redactor
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[4]
PROGRAM = """
import structlog
from services.runtime import logs

logs.configure("worker", "info", "json")
structlog.get_logger().warning("shop_failed", detail="refused: sw0rd-fish")
"""


@pytest.mark.parametrize(
    "name",
    [
        "SHOP_KEY",
        "APIKEY",
        "api_key_2",
        "GH_TOKEN",
        "CLIENT_SECRET",
        "DB_PASSWORD",
        "QUEUE_CONNECTION_STRING",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    ],
)
def test_values_of_variables_with_the_name_of_a_secret_are_hidden(name: str) -> None:
    """Each place of the value is hidden; the text around it stays."""
    redact = Redactor({name: "sw0rd-fish"})
    assert redact("a sw0rd-fish and (sw0rd-fish)") == "a [hidden] and ([hidden])"


@pytest.mark.parametrize("name", ["KEYBOARD_LAYOUT", "HOME", "KEYNOTE", "DSNIFF"])
def test_other_variables_are_not_hidden(name: str) -> None:
    """A text may contain their values."""
    assert Redactor({name: "sw0rd-fish"})("a sw0rd-fish") == "a sw0rd-fish"


def test_short_values_and_paths_of_files_are_not_hidden(tmp_path: Path) -> None:
    """A short value may be part of any word, and the path of a key file is no secret."""
    redact = Redactor({"A_KEY": "fish", "B_KEY": str(tmp_path), "C_KEY": "/" + 5000 * "x"})
    text = f"fishing in {tmp_path}"
    assert redact(text) == text
    assert redact("/" + 5000 * "x") == "[hidden]"


@pytest.mark.parametrize(
    "value", ['two "quoted" words', "back\\slash\\es", "trés-secret", "line 1 of it\nline 2 of it\n"]
)
def test_written_forms_of_a_secret_are_hidden(value: str) -> None:
    """A secret is hidden as it is, in JSON, in a `repr`, and if a text has only one of its lines."""
    redact = Redactor({"KEY": value})
    assert redact(f"<{value.strip()}>") == "<[hidden]>"
    assert redact(f"<{json.dumps(value.strip())[1:-1]}>") == "<[hidden]>"
    assert redact(f"<{repr(value.strip())[1:-1]}>") == "<[hidden]>"
    assert redact(f"<{value.splitlines()[0]}>") == "<[hidden]>"


def test_longest_secret_is_hidden_first() -> None:
    """A secret that contains another one leaves nothing behind."""
    assert Redactor({"A_KEY": "sw0rd-fish", "B_KEY": "sw0rd-fish-2"})("sw0rd-fish-2") == "[hidden]"


def test_secrets_of_the_environment_are_not_logged() -> None:
    """A log line hides the value of a variable of this process."""
    env = {"SHOP_PASSWORD": "sw0rd-fish"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert json.loads(ran.stderr)["detail"] == "refused: [hidden]"


@pytest.mark.parametrize("part", ["eyJ", "eyJa.", "://a:", "bearer ", "sig=", "AccountKey=", "/progress/", "a@"])
def test_text_full_of_beginnings_of_secrets_takes_no_time(part: str) -> None:
    """A job that logs such a text does not hold up the worker."""
    started = time.process_time()
    Redactor({})(part * (32_768 // len(part)))
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("text", ["a {} b", "token={}", "%3D{}", "id.{}", "x{}"])
def test_token_is_hidden_wherever_it_begins(text: str) -> None:
    """A token may follow any character."""
    token = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
    redacted = Redactor({})(text.format(token))
    assert "eyJ" not in redacted
    assert "c2ln" not in redacted
