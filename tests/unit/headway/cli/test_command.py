"""The `headway` command."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace
from rich.console import Console

from headway.cli import job_commands
from headway.cli.command import main
from headway.cli.progress_bars import ProgressBars, elapsed_text, waiting_text
from headway.cli.text import LinePrinter, job_line, json_line, printable
from headway.client import Client, RequestFailed
from headway.client.links import Link
from headway.contracts import JobError, JobSnapshot, Json, Progress, Timestamp, to_progress_snapshot
from headway.tokens import InvalidToken, TokenVerifier
from tests.waiting import free_ports

JOB_ID = UUID("b1f6a6a0-7b7e-4c7f-9d0a-3c1c5a0e6f11")
NOW = Timestamp.now()
JOB = JobSnapshot(
    id=JOB_ID,
    kind="thumbnails",
    status="running",
    version=5,
    submitted_at=NOW,
    started_at=NOW,
    expires_at=NOW.after(60),
)


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


def test_a_minted_link_leads_to_the_page(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the submitter's address, the link to the job's page is printed instead."""
    assert main(["token", str(JOB_ID), "--key", str(keys / "token.pem"), "--link", "http://h:1/"]) == 0
    link = Link.parse(capsys.readouterr().out)
    assert link.page == f"http://h:1/jobs/{JOB_ID}"
    assert TokenVerifier((keys / "token.pub.pem").read_text()).verify(link.token).job_id == JOB_ID


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["token"],
        ["token", "no-uuid"],
        ["token", str(JOB_ID), "--ttl", "long"],
        ["fly"],
        ["submit"],
        ["submit", "k", "--payload", "{"],
        ["submit", "k", "--payload", ""],
        ["submit", "k", "--payload", "@/no/such/file"],
        ["submit", "k", "--delay", "soon"],
        ["submit", "k", "--max-attempts", "1.5"],
        ["submit", "k", "--url", "ftp://h"],
        ["watch"],
        ["watch", f"http://h/jobs/{JOB_ID}"],
        ["watch", "http://h/jobs/1#token"],
        ["watch", "-", "--token-stdin"],
        ["cancel", str(JOB_ID)],
        ["cancel", f"http://h/jobs/{JOB_ID}#t", f"http://h/jobs/{JOB_ID}#t"],
        ["poison"],
        ["poison", "show"],
        ["poison", "discard"],
        ["poison", "redrive"],
        ["poison", "redrive", str(JOB_ID), "--all"],
        ["poison", "redrive", "--all", "--ttl", "0"],
        ["poison", "redrive", "--all", "--ttl", "nan"],
        ["poison", "redrive", "--all", "--ttl", "inf"],
        ["poison", "redrive", "--all", "--no-token", "--link", "http://h"],
        ["poison", "redrive", "--all", "--link", "h"],
    ],
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


@pytest.mark.parametrize(
    ("text", "token", "expected"),
    [
        (f"http://h:1/jobs/{JOB_ID}#t.o.k", None, ("http://h:1", False, "t.o.k")),
        (f"  https://h/prefix/jobs/{JOB_ID}/#t\n", "other", ("https://h/prefix", False, "t")),
        (f"http://h/live/jobs/{JOB_ID}", " t\n", ("http://h", True, "t")),
        (f"http://h/jobs/{JOB_ID}#", "t", ("http://h", False, "t")),
        (f"http://[::1]:8080/live/jobs/{str(JOB_ID).upper()}#t", None, ("http://[::1]:8080", True, "t")),
    ],
)
def test_links_are_read(text: str, token: str | None, expected: tuple[str, bool, str]) -> None:
    """A link says where its job is, and its own token goes before one that is given apart."""
    link = Link.parse(text, token)
    assert (link.base, link.live, link.token, link.id) == (*expected, JOB_ID)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        str(JOB_ID),
        f"/jobs/{JOB_ID}#secret",
        f"ftp://h/jobs/{JOB_ID}#secret",
        f"http:///jobs/{JOB_ID}#secret",
        "http://h/jobs/1#secret",
        f"http://h/jobs/{JOB_ID}/x#secret",
        f"http://h/jobs/{JOB_ID}?a=b#secret",
        f"http://h/jobs/{JOB_ID}#secret and more",
        f"http://h/jobs/{JOB_ID}",
    ],
)
def test_what_is_no_link_is_told_without_its_token(text: str) -> None:
    """A text that is no link, or has no token, is refused, and the error repeats no token."""
    with pytest.raises(ValueError, match=r"Expected a link|no token") as refused:
        Link.parse(text)
    assert "secret" not in str(refused.value)


def test_a_token_comes_from_stdin_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a token nor a link needs to stand in the arguments."""
    seen: list[list[Link]] = []
    monkeypatch.setattr(job_commands, "run", lambda _command, options: seen.append(options.links))
    bare = f"http://h/jobs/{JOB_ID}"
    monkeypatch.setattr(sys, "stdin", io.StringIO("from-stdin\n"))
    main(["watch", bare, "--token-stdin"])
    monkeypatch.setenv("HEADWAY_TOKEN", "from-environment")
    main(["watch", bare, f"{bare}#own"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{bare}#one\n{bare}#two\n"))
    main(["watch", "-"])
    assert [[link.token for link in links] for links in seen] == [
        ["from-stdin"],
        ["from-environment", "own"],
        ["one", "two"],
    ]


def test_a_payload_is_sent_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A payload is an argument, a file or stdin, and no digit of it is changed."""
    seen: list[Any] = []
    monkeypatch.setattr(job_commands, "run", lambda _command, options: seen.append(bytes(options.payload)))
    text = '{"n": 12345678901234567890.10, "ü": [] }'
    (tmp_path / "payload").write_text(text)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    for payload in (text, f"@{tmp_path / 'payload'}", "@-"):
        main(["submit", "k", "--payload", payload])
    assert seen == [text.encode()] * 3


def test_nobody_there_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A submitter that does not answer ends the command with code 1."""
    monkeypatch.setattr(job_commands, "Client", partial(Client, retry_for_s=0.01))
    assert main(["submit", "k", "--url", f"http://127.0.0.1:{free_ports(1)[0]}"]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err.startswith("headway: http://127.0.0.1:")) == ("", True)


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (RequestFailed(422, "invalid", "Expected a kind"), 2),
        (RequestFailed(413, "too_large", "The payload is too large."), 2),
        (RequestFailed(503, "unavailable", "The queue is unavailable."), 1),
        (RequestFailed(None, "refused", "No."), 1),
        (InvalidToken("token_expired", "The token has expired."), 1),
    ],
)
def test_refusals_have_their_codes(trouble: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with a submission is a wrong call; any other refusal is what could not be done."""

    async def refuse(_options: argparse.Namespace) -> int:
        raise trouble

    assert job_commands.run(refuse, argparse.Namespace()) == code
    assert capsys.readouterr().err == f"headway: {trouble}\n"


def test_without_further_packages_keys_and_tokens_are_made(tmp_path: Path) -> None:
    """Only what talks to a service or to the queue needs more packages, and names them."""
    code = "import sys; sys.modules['aiohttp'] = sys.modules['rich'] = sys.modules['azure'] = None\n"
    code += "from headway.cli.command import main; sys.exit(main(sys.argv[1:]))"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)

    assert run("keys", str(tmp_path)).returncode == 0
    assert run("token", str(JOB_ID), "--key", str(tmp_path / "token.pem")).stdout.startswith("eyJ")
    refused = run("submit", "k")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "headway: aiohttp is not installed: pip install 'headway[cli]'\n"
    refused = run("poison", "list")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "headway: azure.core is not installed: pip install 'headway[queue]'\n"


def test_job_authors_need_no_aiohttp() -> None:
    """`import headway` brings in neither aiohttp, nor rich, nor the queue's client."""
    code = "import sys, headway; sys.exit(bool({'aiohttp', 'rich', 'azure'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


STATES = {
    "queued": (replace(JOB, status="queued", started_at=None), ["·", "queued"]),
    "running": (
        replace(JOB, progress=to_progress_snapshot(Progress(1, 3, "files", "Resizing"))),
        ["33 %", "Resizing", "━"],
    ),
    "nearly": (replace(JOB, progress=to_progress_snapshot(Progress(9_999, 10_000))), ["99 %"]),
    "endless": (replace(JOB, progress=to_progress_snapshot(Progress(7, None, "pages"))), ["7 pages"]),
    "second": (replace(JOB, attempt=2), ["attempt 2 of 5"]),
    "retrying": (replace(JOB, status="retrying", due_at=NOW.after(60)), ["↻", "retrying"]),
    "cancelling": (replace(JOB, cancel_requested=True), ["cancelling"]),
    "succeeded": (
        replace(JOB, status="succeeded", finished_at=NOW.after(75), result=Json(b'{"sent":3}')),
        ["✓", "succeeded", '{"sent":3}', "1:15"],
    ),
    "failed": (
        replace(JOB, status="failed", error=JobError("ValueError", "the cable is loose")),
        ["✗", "failed", "ValueError: the cable is loose"],
    ),
    "cancelled": (replace(JOB, status="cancelled", cancel_requested=True, finished_at=NOW), ["■", "cancelled"]),
}
BARS_ONLY = "·━↻✓✗■ 1:15"


def drawn(*jobs: JobSnapshot, width: int = 120) -> str:
    """Return what a terminal of that width shows of jobs."""
    output = io.StringIO()
    bars = ProgressBars()
    for job in jobs:
        bars.update(job)
    Console(file=output, width=width, force_terminal=True, color_system=None).print(bars.table())
    return output.getvalue()


@pytest.mark.parametrize("name", STATES)
def test_each_state_has_its_bar(name: str) -> None:
    """A bar's line has the job's kind and mark, how far it is, and what it says."""
    job, expected = STATES[name]
    text = drawn(job)
    assert text.count("\n") == 1
    for part in ("thumbnails", *expected):
        assert part in text


@pytest.mark.parametrize("name", STATES)
def test_each_state_has_its_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a state is a line of text, printed once, and with --json the snapshot."""
    job, expected = STATES[name]
    lines = LinePrinter(job_line)
    lines.print_job(job)
    lines.print_job(replace(job, version=job.version + 1))
    (text,) = capsys.readouterr().out.splitlines()
    assert text.startswith(f"thumbnails {JOB_ID} ")
    for part in expected:
        assert part in text or part in BARS_ONLY
    LinePrinter(json_line).print_job(job)
    assert capsys.readouterr().out.startswith(f'{{"id":"{JOB_ID}","kind":"thumbnails",')


def test_many_jobs_are_many_bars_in_their_order() -> None:
    """Each job keeps its line; a narrow terminal cuts messages but wraps an error, which is what one looks for."""
    others = [replace(JOB, id=uuid4(), kind=f"kind{number}") for number in range(3)]
    lines = drawn(*others, replace(others[0], version=6)).splitlines()
    assert [text.split()[1] for text in lines] == ["kind0", "kind1", "kind2"]
    long = "word " * 30
    assert drawn(replace(JOB, progress=to_progress_snapshot(Progress(1, 2, None, long))), width=100).count("\n") == 1
    assert drawn(replace(JOB, status="failed", error=JobError("E", long)), width=100).count("word") == 30


def test_a_terminal_shows_bars_as_they_move() -> None:
    """What is shown last stays on the terminal."""
    output = io.StringIO()
    with ProgressBars(Console(file=output, width=120, force_terminal=True, color_system=None)) as bars:
        bars.update(JOB)
        bars.update(STATES["succeeded"][0])
    assert "succeeded" in output.getvalue()


def test_nothing_that_a_job_says_can_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters of a kind, a message or an error are taken out."""
    evil = "\x1b[2J\x9b1mgone\r\n\x07"
    job = replace(JOB, kind=evil, status="failed", error=JobError("E", evil))
    LinePrinter(job_line).print_job(job)
    for shown in (drawn(job), capsys.readouterr().out):
        assert not set(shown) & set("\x1b\x9b\r\x07")
    assert printable("ü ☂") == "ü ☂"


def test_waiting_is_told() -> None:
    """A delayed job says when it starts, and one whose worker was lost that it was."""
    assert waiting_text(replace(JOB, status="retrying", due_at=Timestamp.now().after(60.5))) == "in 60 s"
    assert waiting_text(replace(JOB, lease_until=Timestamp.now().after(-1))) == "worker lost"
    assert waiting_text(JOB) == waiting_text(replace(JOB, status="cancelled", due_at=NOW, finished_at=NOW)) == ""
    assert elapsed_text(replace(JOB, finished_at=NOW.after(3 * 3600 + 62))) == "3:01:02"
    assert elapsed_text(replace(JOB, started_at=Timestamp.now().after(60))) == "0:00"
