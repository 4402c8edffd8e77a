"""The queue that the commands for poison messages use."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.cli import queue_config

CONNECTION_STRING = "AccountName=a;AccountKey=c2VjcmV0"
LOCAL = "AccountName=local;AccountKey=bG9jYWw="


@pytest.fixture
def local_env(tmp_path: Path) -> Path:
    """Write an `env` file as `make up` does."""
    path = tmp_path / "env"
    path.write_text(f"QUEUE_CONNECTION_STRING={LOCAL}\nQUEUE_NAME=\nGRACE_S=3\n")
    return path


@pytest.mark.parametrize(
    ("environ", "name", "expected"),
    [
        ({}, None, (LOCAL, "jobs", None)),
        ({"QUEUE_NAME": "other", "QUEUE_ACCOUNT_URL": ""}, None, (LOCAL, "other", None)),
        ({"QUEUE_CONNECTION_STRING": CONNECTION_STRING}, None, (CONNECTION_STRING, "jobs", None)),
        (
            {"QUEUE_CONNECTION_STRING": CONNECTION_STRING, "QUEUE_NAME": "own", "QUEUE_API_VERSION": "2024-11-04"},
            "option",
            (CONNECTION_STRING, "option", "2024-11-04"),
        ),
        ({"QUEUE_ACCOUNT_URL": "https://a.example"}, None, ("https://a.example", "jobs", None)),
    ],
)
def test_environment_overrides_the_local_queue(
    local_env: Path, environ: dict[str, str], name: str | None, expected: tuple[str, str, str | None]
) -> None:
    """The environment overrides the file of `make up`, and the option --queue overrides both."""
    assert queue_config.find_queue(environ, name, local_env) == expected


def test_connection_string_is_read_from_a_file(tmp_path: Path) -> None:
    """A newline at the end of the file is ignored, and the connection string is not in the `repr`."""
    (tmp_path / "secret").write_text(f"{CONNECTION_STRING}\n")
    environ = {"QUEUE_CONNECTION_STRING_FILE": str(tmp_path / "secret")}
    config = queue_config.find_queue(environ, None, tmp_path / "missing")
    assert (config.account, "Account" in repr(config)) == (CONNECTION_STRING, False)


@pytest.mark.parametrize(
    ("environ", "name", "source"),
    [
        ({}, None, "QUEUE_CONNECTION_STRING or QUEUE_ACCOUNT_URL"),
        (
            {"QUEUE_CONNECTION_STRING": CONNECTION_STRING, "QUEUE_ACCOUNT_URL": "https://a.example"},
            None,
            "QUEUE_CONNECTION_STRING and QUEUE_ACCOUNT_URL",
        ),
        ({"QUEUE_ACCOUNT_URL": "http://a.example"}, None, "QUEUE_ACCOUNT_URL"),
        ({"QUEUE_CONNECTION_STRING_FILE": "/dev/null"}, None, "QUEUE_CONNECTION_STRING"),
        ({"QUEUE_CONNECTION_STRING": "AccountName=a;AccountKey=c2VjcmV"}, None, "QUEUE_CONNECTION_STRING: AccountKey"),
        ({"QUEUE_CONNECTION_STRING": CONNECTION_STRING, "QUEUE_NAME": "hj"}, None, "QUEUE_NAME: "),
        ({"QUEUE_CONNECTION_STRING": CONNECTION_STRING, "QUEUE_NAME": "jobs"}, "Jobs", "--queue: "),
        ({"QUEUE_CONNECTION_STRING": CONNECTION_STRING, "QUEUE_API_VERSION": "1"}, None, "QUEUE_API_VERSION: "),
    ],
)
def test_invalid_queue_settings_are_rejected(
    environ: dict[str, str], name: str | None, source: str, tmp_path: Path
) -> None:
    """The error is one line that names the variable or option, and contains no secret."""
    with pytest.raises(ValueError, match=source) as raised:
        queue_config.find_queue(environ, name, tmp_path / "missing")
    assert "\n" not in str(raised.value)
    assert "c2VjcmV" not in str(raised.value)
