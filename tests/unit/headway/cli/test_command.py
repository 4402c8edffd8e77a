"""The `headway` command: arguments, tokens, keys, links, error messages and the display of jobs."""

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

from headway import __version__
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


def test_token_allows_watching_and_cancelling(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`headway token` prints only a token, which is valid for a week."""
    assert main(["token", str(JOB_ID), "--kind", "countdown", "--key", str(keys / "token.pem")]) == 0
    grant = TokenVerifier((keys / "token.pub.pem").read_text()).verify(capsys.readouterr().out.strip())
    assert (grant.job_id, grant.kind, grant.scope) == (JOB_ID, "countdown", frozenset({"watch", "cancel"}))
    assert abs(grant.expires_at - Timestamp.now().after(7 * 86_400)) < 60_000


def test_options_limit_a_token(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options set the scope, the kind and the lifetime of a token."""
    key = str(keys / "token.pem")
    assert main(["token", str(JOB_ID), "--watch-only", "--kind", "report", "--ttl", "60", "--key", key]) == 0
    grant = TokenVerifier((keys / "token.pub.pem").read_text()).verify(capsys.readouterr().out.strip())
    assert (grant.kind, grant.scope) == ("report", frozenset({"watch"}))
    assert grant.expires_at <= Timestamp.now().after(60)


def test_keys_are_created_in_a_new_folder(tmp_path: Path) -> None:
    """`headway keys` creates the folder and its three key files."""
    assert main(["keys", str(tmp_path / "new/keys")]) == 0
    assert sorted(path.name for path in (tmp_path / "new/keys").iterdir()) == [
        "report.key",
        "token.pem",
        "token.pub.pem",
    ]


@pytest.mark.parametrize("content", [None, "", "nonsense"])
def test_unusable_key_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None) -> None:
    """With a missing or invalid key the command exits with 1 and prints an error on stderr only."""
    key = tmp_path / "token.pem"
    if content is not None:
        key.write_text(content)
    assert main(["token", str(JOB_ID), "--kind", "countdown", "--key", str(key)]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err.startswith("headway: ")) == ("", True)


def test_link_option_prints_a_link(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--link`, `headway token` prints a link to the job's page that contains the token."""
    assert (
        main(["token", str(JOB_ID), "--kind", "countdown", "--key", str(keys / "token.pem"), "--link", "http://h:1/"])
        == 0
    )
    link = Link.parse(capsys.readouterr().out)
    assert link.page == f"http://h:1/jobs/{JOB_ID}"
    assert TokenVerifier((keys / "token.pub.pem").read_text()).verify(link.token).job_id == JOB_ID


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["token"],
        ["token", "no-uuid"],
        ["token", str(JOB_ID)],
        ["token", str(JOB_ID), "--kind", ""],
        ["token", str(JOB_ID), "--kind", "k" * 129],
        ["token", str(JOB_ID), "--kind", "k", "--ttl", "long"],
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
        ["submit", "k", "--tag"],
        ["jobs", "--status", "running,asleep"],
        ["jobs", "--status", ""],
        ["jobs", "--status", "failed", "--failed"],
        ["jobs", "--since", "yesterday"],
        ["jobs", "--since", "2026-01-01T00:00:00"],
        ["jobs", "--until", "12 parsecs"],
        ["jobs", "--limit", "0"],
        ["jobs", "--attempts-min", "-1"],
        ["jobs", "--kind", "k" * 129],
        ["jobs", "--url", "h"],
        ["show"],
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
def test_invalid_arguments_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Invalid arguments print the usage of the command on stderr."""
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    assert "usage: headway" in capsys.readouterr().err


def test_token_demands_the_kind(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A token with another kind than the job's would show the wrong one until the first report."""
    with pytest.raises(SystemExit):
        main(["token", str(JOB_ID), "--key", str(keys / "token.pem")])
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.endswith("headway token: error: the following arguments are required: --kind\n")


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`headway --version` prints the version of the library."""
    with pytest.raises(SystemExit) as exited:
        main(["--version"])
    assert (exited.value.code, capsys.readouterr().out) == (0, f"headway {__version__}\n")


@pytest.mark.parametrize("ttl", ["inf", "1e309"])
def test_infinite_lifetime_is_rejected(keys: Path, ttl: str) -> None:
    """`headway token` exits with 1 if the lifetime is infinite: every token expires."""
    assert main(["token", str(JOB_ID), "--kind", "k", "--ttl", ttl, "--key", str(keys / "token.pem")]) == 1


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
def test_links_are_parsed(text: str, token: str | None, expected: tuple[str, bool, str]) -> None:
    """A link's own token takes precedence over a separate one."""
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
def test_invalid_link_is_rejected_without_revealing_its_token(text: str) -> None:
    """The error for an invalid link, or a link without a token, does not contain the text after the #."""
    with pytest.raises(ValueError, match=r"Expected a link|no token") as error:
        Link.parse(text)
    assert "secret" not in str(error.value)


def test_token_is_read_from_stdin_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`watch` reads links or a token from stdin; $HEADWAY_TOKEN is the token of links without one."""
    received: list[list[Link]] = []
    monkeypatch.setattr(job_commands, "run", lambda _command, options: received.append(options.links))
    page = f"http://h/jobs/{JOB_ID}"
    monkeypatch.setattr(sys, "stdin", io.StringIO("from-stdin\n"))
    main(["watch", page, "--token-stdin"])
    monkeypatch.setenv("HEADWAY_TOKEN", "from-environment")
    main(["watch", page, f"{page}#own"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{page}#one\n{page}#two\n"))
    main(["watch", "-"])
    assert [[link.token for link in links] for links in received] == [
        ["from-stdin"],
        ["from-environment", "own"],
        ["one", "two"],
    ]


@pytest.mark.parametrize("literal", ["NaN", "-Infinity"])
def test_payload_with_nan_is_refused(capsys: pytest.CaptureFixture[str], literal: str) -> None:
    """It is a usage error that names the place in the payload."""
    with pytest.raises(SystemExit) as exited:
        main(["submit", "k", "--payload", f'{{"losses": [1, {literal}]}}'])
    assert exited.value.code == 2
    assert "argument --payload: JSON is malformed: $.losses[1] is" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "nonsense"])
def test_error_names_the_source_of_a_payload(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file or stdin that does not contain JSON is named."""
    file = tmp_path / "payload"
    file.write_text(content)
    for payload, source in ((f"@{file}", str(file)), ("@-", "stdin")):
        monkeypatch.setattr("sys.stdin", io.StringIO(content))
        with pytest.raises(SystemExit):
            main(["submit", "k", "--payload", payload])
        assert f"argument --payload: {source}: " in capsys.readouterr().err


def test_payload_is_sent_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The payload comes from an argument, a file or stdin, and its numbers keep all their digits."""
    received: list[Any] = []
    monkeypatch.setattr(job_commands, "run", lambda _command, options: received.append(bytes(options.payload)))
    text = '{"n": 12345678901234567890.10, "ü": [] }'
    (tmp_path / "payload").write_text(text)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    for payload in (text, f"@{tmp_path / 'payload'}", "@-"):
        main(["submit", "k", "--payload", payload])
    assert received == [text.encode()] * 3


def test_unreachable_submitter_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """If the submitter does not answer, the command exits with 1 and names the URL."""
    monkeypatch.setattr(job_commands, "Client", partial(Client, retry_for_s=0.01))
    assert main(["submit", "k", "--url", f"http://127.0.0.1:{free_ports(1)[0]}"]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err.startswith("headway: http://127.0.0.1:")) == ("", True)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestFailed(422, "invalid", "Expected a kind"), 2),
        (RequestFailed(413, "too_large", "The payload is too large."), 2),
        (RequestFailed(503, "unavailable", "The queue is unavailable."), 1),
        (RequestFailed(None, "refused", "No."), 1),
        (InvalidToken("token_expired", "The token has expired."), 1),
    ],
)
def test_exit_code_of_a_rejected_request(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid submission exits with 2, as a usage error does; any other rejection exits with 1."""

    async def command(_options: argparse.Namespace) -> int:
        raise error

    assert job_commands.run(command, argparse.Namespace()) == code
    assert capsys.readouterr().err == f"headway: {error}\n"


def test_keys_and_tokens_need_no_optional_packages(tmp_path: Path) -> None:
    """`keys` and `token` work without aiohttp, rich and the Azure SDK; other commands name the extra to install."""
    code = "import sys; sys.modules['aiohttp'] = sys.modules['rich'] = sys.modules['azure'] = None\n"
    code += "from headway.cli.command import main; sys.exit(main(sys.argv[1:]))"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)

    assert run("keys", str(tmp_path)).returncode == 0
    assert run("token", str(JOB_ID), "--kind", "k", "--key", str(tmp_path / "token.pem")).stdout.startswith("eyJ")
    failed = run("submit", "k")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "headway: aiohttp is not installed: pip install 'headway[cli]'\n"
    failed = run("poison", "list")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "headway: azure.core is not installed: pip install 'headway[cli]'\n"


def test_import_of_headway_needs_no_optional_packages() -> None:
    """`import headway` imports neither aiohttp, nor rich, nor the Azure SDK."""
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
    "given up": (replace(JOB, status="failed", error=JobError("Fail", "No cable")), ["✗", "No cable"]),
    "cancelled": (replace(JOB, status="cancelled", cancel_requested=True, finished_at=NOW), ["■", "cancelled"]),
}
BARS_ONLY = "·━↻✓✗■ 1:15"


def rendered(*jobs: JobSnapshot, width: int = 120) -> str:
    """Return the bars of jobs as text, on a terminal of the given width."""
    output = io.StringIO()
    bars = ProgressBars(Timestamp.now)
    for job in jobs:
        bars.update(job)
    Console(file=output, width=width, force_terminal=True, color_system=None).print(bars.table())
    return output.getvalue()


@pytest.mark.parametrize("name", STATES)
def test_bar_shows_the_state(name: str) -> None:
    """A bar is one line with the kind, the mark, the amount and the message of the job."""
    job, expected = STATES[name]
    text = rendered(job)
    assert text.count("\n") == 1
    for part in ("thumbnails", *expected):
        assert part in text


@pytest.mark.parametrize("name", STATES)
def test_line_shows_the_state(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal each state is printed once, as a line of text, or with --json as the snapshot."""
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


def test_each_job_has_a_bar() -> None:
    """Bars keep their order; a narrow terminal cuts long messages, but wraps long errors."""
    jobs = [replace(JOB, id=uuid4(), kind=f"kind{number}") for number in range(3)]
    lines = rendered(*jobs, replace(jobs[0], version=6)).splitlines()
    assert [line.split()[1] for line in lines] == ["kind0", "kind1", "kind2"]
    long_text = "word " * 30
    running = replace(JOB, progress=to_progress_snapshot(Progress(1, 2, None, long_text)))
    assert rendered(running, width=100).count("\n") == 1
    assert rendered(replace(JOB, status="failed", error=JobError("E", long_text)), width=100).count("word") == 30


def test_bars_are_updated_on_a_terminal() -> None:
    """The last update stays on the terminal after the bars are closed."""
    output = io.StringIO()
    with ProgressBars(Timestamp.now, Console(file=output, width=120, force_terminal=True, color_system=None)) as bars:
        bars.update(JOB)
        bars.update(STATES["succeeded"][0])
    assert "succeeded" in output.getvalue()


def test_control_characters_are_removed_from_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in the kind or the error of a job do not reach the terminal."""
    escapes = "\x1b[2J\x9b1mgone\r\n\x07"
    job = replace(JOB, kind=escapes, status="failed", error=JobError("E", escapes))
    LinePrinter(job_line).print_job(job)
    for output in (rendered(job), capsys.readouterr().out):
        assert not set(output) & set("\x1b\x9b\r\x07")
    assert printable("ü ☂") == "ü ☂"


def test_bar_shows_waiting_and_elapsed_time() -> None:
    """A bar shows when a delayed job starts, whether the worker was lost, and how long the job has run."""
    assert waiting_text(replace(JOB, status="retrying", due_at=NOW.after(60)), NOW) == "in 60 s"
    assert waiting_text(replace(JOB, lease_until=NOW.after(-1)), NOW) == "worker lost"
    assert waiting_text(JOB, NOW) == ""
    assert waiting_text(replace(JOB, status="cancelled", due_at=NOW, finished_at=NOW), NOW) == ""
    assert elapsed_text(replace(JOB, finished_at=NOW.after(3 * 3600 + 62)), NOW) == "3:01:02"
    assert elapsed_text(replace(JOB, started_at=NOW.after(60)), NOW) == "0:00"


def test_a_lost_connection_is_not_a_lost_worker() -> None:
    """A lease that has expired since the server's last sign of life may have been renewed."""
    job, last_sign = replace(JOB, lease_until=NOW.after(-1)), NOW.after(-2)
    assert waiting_text(job, NOW, last_sign) == ""
    output = io.StringIO()
    for confirmed in (last_sign, NOW):
        bars = ProgressBars(lambda: NOW, confirmed=lambda: confirmed)  # noqa: B023 - called in this iteration
        bars.update(job)
        Console(file=output, width=120).print(bars.table())
    assert output.getvalue().count("worker lost") == 1


def test_clock_of_the_terminal_does_not_matter() -> None:
    """Bars compare the times of a snapshot with the time of the server."""
    server_now = NOW.after(-120)
    bars = ProgressBars(lambda: server_now)
    bars.update(replace(JOB, started_at=server_now.after(-5), lease_until=server_now.after(30)))
    output = io.StringIO()
    Console(file=output, width=120).print(bars.table())
    assert "0:05" in output.getvalue()
    assert "worker lost" not in output.getvalue()
