"""The `headway` command."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from headway.cli import main
from headway.contracts import Timestamp
from headway.tokens import TokenVerifier

JOB_ID = uuid4()


def test_a_minted_token_opens_the_job(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`headway token` prints a token, and nothing else, that may watch and cancel for a week."""
    assert main(["token", str(JOB_ID), "--key", str(keys / "token.pem")]) == 0
    granted = TokenVerifier((keys / "token.pub.pem").read_text()).verify(capsys.readouterr().out.strip())
    assert (granted.job_id, granted.kind, granted.scope) == (JOB_ID, "countdown", frozenset({"watch", "cancel"}))
    assert abs(granted.expires_at - Timestamp.now().after(7 * 86_400)) < 60_000


def test_a_token_to_share_may_only_watch(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The options narrow what a token grants."""
    key = str(keys / "token.pem")
    assert main(["token", str(JOB_ID), "--watch-only", "--kind", "report", "--ttl", "60", "--key", key]) == 0
    granted = TokenVerifier((keys / "token.pub.pem").read_text()).verify(capsys.readouterr().out.strip())
    assert (granted.kind, granted.scope) == ("report", frozenset({"watch"}))
    assert granted.expires_at <= Timestamp.now().after(60)


def test_keys_are_made_where_there_are_none(tmp_path: Path) -> None:
    """`headway keys` fills a new folder."""
    assert main(["keys", str(tmp_path / "new/keys")]) == 0
    assert sorted(path.name for path in (tmp_path / "new/keys").iterdir()) == [
        "report.key",
        "token.pem",
        "token.pub.pem",
    ]


@pytest.mark.parametrize("content", [None, "", "nonsense"])
def test_what_cannot_be_done_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    """A key that is missing or unusable ends with code 1 and a line on stderr, no traceback."""
    key = tmp_path / "token.pem"
    if content is not None:
        key.write_text(content)
    assert main(["token", str(JOB_ID), "--key", str(key)]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err.startswith("headway: ")) == ("", True)


@pytest.mark.parametrize(
    "arguments", [[], ["token"], ["token", "no-uuid"], ["token", str(JOB_ID), "--ttl", "long"], ["fly"]]
)
def test_a_wrong_call_ends_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever calls it wrongly is shown how it is called."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: headway" in capsys.readouterr().err


@pytest.mark.parametrize("ttl", ["inf", "1e309"])
def test_a_lifetime_without_end_is_refused(keys: Path, ttl: str) -> None:
    """A token always expires."""
    assert main(["token", str(JOB_ID), "--ttl", ttl, "--key", str(keys / "token.pem")]) == 1
