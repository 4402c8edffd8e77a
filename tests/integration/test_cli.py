"""The `headway` command, as users and scripts call it, and `make demo`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dev.environment import ROOT
from headway.client.links import Link
from tests.integration.test_submitter import running_submitter
from tests.stack import JOBS, Stack, running
from tests.waiting import PATIENCE_S, wait_until

ENDLESS = ("countdown", "--payload", '{"steps": 9000, "delay_s": 0.05}')


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    env = {"WORKER_JOBS": JOBS, "GRACE_S": "1"}
    async with running(tmp_path_factory.mktemp("cli"), **env) as stack:
        yield stack


class Completed(NamedTuple):
    """The exit code and the output of a command."""

    code: int | None
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of standard output."""
        return self.out.splitlines()


class Terminal:
    """A pseudo-terminal, and the text that was written to it."""

    def __init__(self) -> None:
        self.primary, self.secondary = os.openpty()
        self.text = ""
        asyncio.get_running_loop().add_reader(self.primary, self._read)

    def _read(self) -> None:
        self.text += os.read(self.primary, 65_536).decode(errors="replace")

    def close(self) -> None:
        """Close both ends."""
        asyncio.get_running_loop().remove_reader(self.primary)
        os.close(self.primary)
        os.close(self.secondary)


@pytest.fixture
async def terminal() -> AsyncIterator[Terminal]:
    """Open a terminal."""
    terminal = Terminal()
    yield terminal
    terminal.close()


async def start(
    stack: Stack, *arguments: str, stdin: int = DEVNULL, stdout: int = PIPE, stderr: int = PIPE, **variables: str
) -> Process:
    """Start the `headway` command; `variables` are added to its environment."""
    env = {**os.environ, "HEADWAY_URL": stack.url, "COLUMNS": "120", "TERM": "xterm", **variables}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-m",
        "headway",
        *arguments,
        cwd=ROOT,
        env=env,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
    )


async def headway(stack: Stack, *arguments: str, stdin_text: str | None = None, **variables: str) -> Completed:
    """Run the `headway` command until it exits; `variables` are added to its environment."""
    process = await start(stack, *arguments, stdin=DEVNULL if stdin_text is None else PIPE, **variables)  # type: ignore[arg-type]
    out, err = await asyncio.wait_for(
        process.communicate(None if stdin_text is None else stdin_text.encode()), PATIENCE_S
    )
    return Completed(process.returncode, out.decode(), err.decode())


async def test_submit_prints_the_link(stack: Stack) -> None:
    """Without --watch the command prints one line: the link of the page, or with --json the receipt."""
    completed = await headway(stack, "submit", "echo", "--payload", "[1, 2.50]")
    assert (completed.code, completed.err, len(completed.lines)) == (0, "", 1)
    link = Link.parse(completed.out)
    assert link.base == stack.url
    await wait_until(lambda: has_ended(stack, link))
    assert (await stack.snapshot(str(link.id), link.token))["result"] == [1, 2.5]
    receipt = json.loads((await headway(stack, "submit", "echo", "--json")).out)
    assert receipt["links"]["page"].endswith(f"/jobs/{receipt['id']}#{receipt['token']}")


async def has_ended(stack: Stack, link: Link) -> bool:
    """Return whether the job of a link has completed."""
    return bool((await stack.snapshot(str(link.id), link.token))["finished_at"])


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("countdown", "--payload", '{"steps": 3, "delay_s": 0.05}'), 0, 'succeeded, 100 %, "Counted 3 steps"'),
        (("broken",), 1, "failed, ValueError: the cable is loose"),
        (("unknown-kind", "--max-attempts", "1"), 1, "failed, UnknownKind"),
        (("countdown", "--timeout", "0.2", "--max-attempts", "1"), 1, "failed, Timeout"),
    ],
)
async def test_exit_code_is_the_outcome(stack: Stack, arguments: tuple[str, ...], code: int, expected: str) -> None:
    """The last line shows the job's outcome, which decides the exit code; no line is repeated or contains a token."""
    completed = await headway(stack, "submit", *arguments, "--watch")
    assert (completed.code, completed.err) == (code, "")
    assert expected in completed.lines[-1]
    assert len(set(completed.lines)) == len(completed.lines)
    assert "eyJ" not in completed.out
    assert "\x1b" not in completed.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("countdown", "--payload", "{"), "argument --payload"),
        (("countdown", "--max-attempts", "0"), "max_attempts"),
        (("countdown", "--delay", "-1"), "delay_s"),
        (("countdown", "--delay", "nan"), "delay_s"),
        (("",), "kind"),
        (("echo", "--payload", f'"{"x" * 33_000}"'), "payload"),
    ],
)
async def test_invalid_submission_is_a_usage_error(stack: Stack, arguments: tuple[str, ...], expected: str) -> None:
    """An invalid submission exits with 2, names the argument on stderr and prints nothing on stdout."""
    completed = await headway(stack, "submit", *arguments)
    assert (completed.code, completed.out) == (2, "")
    assert expected in completed.err.splitlines()[-1]


async def test_json_output_is_one_snapshot_per_line(stack: Stack) -> None:
    """With --json each line is a snapshot as the notifier sends it, with rising versions."""
    payload = '{"steps": 5, "delay_s": 0.05}'
    completed = await headway(stack, "submit", "countdown", "--payload", "@-", "--watch", "--json", stdin_text=payload)
    jobs = [json.loads(line) for line in completed.lines]
    assert [job["version"] for job in jobs] == sorted({job["version"] for job in jobs})
    assert jobs[-1] == await stack.snapshot(jobs[-1]["id"], await issue_token(stack, jobs[-1]["id"]))


async def test_unsupported_characters_are_replaced(stack: Stack) -> None:
    """Characters that the output's encoding lacks are replaced, without an error."""
    completed = await headway(stack, "submit", "echo", "--payload", '"ü ☂"', "--watch", PYTHONIOENCODING="ascii")
    assert (completed.code, completed.err) == (0, "")
    assert '"? ?"' in completed.lines[-1]


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"},
    ],
    ids=["C", "latin-1"],
)
async def test_locale_does_not_change_a_payload(stack: Stack, variables: dict[str, str], tmp_path: Path) -> None:
    """A file, stdin and an argument are UTF-8, with or without a byte order mark, and so are the snapshots."""
    text = '"Straße ☂"'
    (tmp_path / "payload.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    sources = [f"@{tmp_path / 'payload.json'}", "@-", text]
    ended = await asyncio.gather(
        *(
            headway(stack, "submit", "echo", "--watch", "--json", "--payload", source, stdin_text=text, **variables)
            for source in sources
        )
    )
    assert [json.loads(completed.lines[-1])["result"] for completed in ended] == ["Straße ☂"] * 3
    (tmp_path / "payload.json").write_bytes("Straße".encode("latin-1"))
    refused = await headway(stack, "submit", "echo", "--payload", sources[0], **variables)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.endswith(f"{tmp_path / 'payload.json'} is not UTF-8: invalid byte 0xdf at position 4 (line 1)\n")


async def issue_token(stack: Stack, job_id: str) -> str:
    """Issue a token with `headway token`."""
    return (
        await headway(stack, "token", job_id, "--kind", "countdown", TOKEN_KEY_FILE=stack.env["TOKEN_KEY_FILE"])
    ).out.strip()


async def test_job_is_watched_and_cancelled_by_its_link(stack: Stack) -> None:
    """Link and token come from arguments, stdin or the environment; `watch` of a cancelled job exits with 130."""
    link = (await headway(stack, "submit", *ENDLESS)).out.strip()
    page, _, token = link.partition("#")
    processes = [
        await start(stack, "watch", link),
        await start(stack, "watch", page, HEADWAY_TOKEN=token),
        await start(stack, "watch", "-", "--json", stdin=PIPE),
        await start(stack, "watch", page, "--token-stdin", stdin=PIPE),
    ]
    for process, text in ((processes[2], link), (processes[3], token)):
        assert process.stdin is not None
        process.stdin.write(text.encode())
        process.stdin.close()
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline()
    cancelled = await headway(stack, "cancel", "-", stdin_text=link)
    assert (cancelled.code, cancelled.err) == (0, "")
    assert "cancel" in cancelled.out
    for process in processes:
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert (process.returncode, err) == (130, b"")
        assert b"cancelled" in out.splitlines()[-1]
    repeated = await headway(stack, "cancel", page, "--json", HEADWAY_TOKEN=token)
    assert (repeated.code, json.loads(repeated.out)["status"]) == (0, "cancelled")


async def test_several_jobs_are_watched_at_once(stack: Stack) -> None:
    """The worst outcome decides the exit code, and a job with an invalid token does not affect the others."""
    links = [(await headway(stack, "submit", kind)).out.strip() for kind in ("echo", "broken", "echo")]
    links[0] = f"{links[0][:-4]}AAAA"
    completed = await headway(stack, "watch", "-", stdin_text="\n".join(links))
    assert completed.code == 1
    assert completed.err == "headway: The token is not valid for this service.\n"
    assert {line.split()[2].strip(",") for line in completed.lines} >= {"failed", "succeeded"}
    assert (await headway(stack, "watch", links[2], links[2])).code == 0


async def test_watch_token_cannot_cancel(stack: Stack) -> None:
    """A rejected request exits with 1 and prints one line on stderr."""
    job_id = (await stack.submit("countdown", delay_s=60))["id"]
    issued = await headway(
        stack,
        *("token", job_id, "--kind", "countdown", "--watch-only", "--link", stack.url),
        TOKEN_KEY_FILE=stack.env["TOKEN_KEY_FILE"],
    )
    completed = await headway(stack, "cancel", "-", stdin_text=issued.out)
    assert (completed.code, completed.out, completed.err.count("\n")) == (1, "", 1)


async def test_ctrl_c_leaves_the_job_running(stack: Stack) -> None:
    """Ctrl-C exits with 130 and a message without a token, and the job keeps running."""
    link = (await headway(stack, "submit", *ENDLESS)).out.strip()
    page, _, token = link.partition("#")
    process = await start(stack, "watch", page, HEADWAY_TOKEN=token)
    assert process.stdout is not None
    while b"%" not in await process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, err) == (130, b"headway: stopped watching; the jobs keep running\n")
    job_id = Link.parse(link).id
    before = await stack.snapshot(str(job_id), token)
    assert before["status"] == "running"

    async def advanced() -> bool:
        return bool((await stack.snapshot(str(job_id), token))["version"] > before["version"])

    await wait_until(advanced)
    await headway(stack, "cancel", link)


async def test_terminal_shows_progress_bars(stack: Stack, terminal: Terminal) -> None:
    """On a terminal a job is a bar that is redrawn; after Ctrl-C the user gets a link to watch the job again."""
    process = await start(stack, "submit", *ENDLESS, "--watch", stdout=terminal.secondary, stderr=terminal.secondary)
    await wait_until(lambda: re.search(r"Step \d+ of 9000", terminal.text))
    assert "━" in terminal.text
    assert "eyJ" not in terminal.text
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 130
    link = await wait_until(lambda: re.search(r"to watch again: (\S+)\r\n", terminal.text))
    terminal.text = ""
    assert (await headway(stack, "cancel", link[1])).code == 0
    process = await start(stack, "watch", link[1], stdout=terminal.secondary, stderr=terminal.secondary)
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 130
    await wait_until(lambda: "■" in terminal.text and "cancelled" in terminal.text)
    terminal.text = ""
    process = await start(
        stack, "watch", link[1], stdout=terminal.secondary, stderr=terminal.secondary, PYTHONIOENCODING="ascii"
    )
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 130
    await wait_until(lambda: "cancelled" in terminal.text)


async def test_closed_pipe_ends_the_command_silently(stack: Stack) -> None:
    """When the reader of its output exits, as `head -1` does, the command exits without a message."""
    process = await start(stack, "submit", *ENDLESS, "--watch", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    job = json.loads(await process.stdout.readline())
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert await asyncio.wait_for(process.stderr.read(), PATIENCE_S) == b""
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 1
    await headway(stack, "cancel", f"{stack.url}/jobs/{job['id']}", HEADWAY_TOKEN=await issue_token(stack, job["id"]))


async def test_api_key_is_read_from_a_file_or_the_environment(stack: Stack, tmp_path: Path) -> None:
    """Against a submitter that requires API keys, a submission without one exits with 1."""
    keys = tmp_path / "api-keys"
    keys.write_text("the-key\n")
    locked = {"SUBMITTER_API_KEYS": str(keys), "SUBMITTER_OPEN": "", "DASHBOARD_OPEN": ""}
    async with running_submitter(stack, **locked) as submitter:
        command, address = ("submit", "echo"), {"HEADWAY_URL": submitter.url}
        assert (await headway(stack, *command, **address)).code == 1
        assert (await headway(stack, *command, "--api-key-file", str(keys), **address)).code == 0
        assert (await headway(stack, *command, HEADWAY_API_KEY="the-key", **address)).code == 0


async def test_any_api_key_reads_all_jobs(stack: Stack, tmp_path: Path) -> None:
    """A key without a role lists jobs and kinds, and shows a job with its payload and its log; it sees no workers."""
    keys = tmp_path / "api-keys"
    keys.write_text("the-key\n")
    link = Link.parse((await headway(stack, "submit", "countdown", "--payload", '{"steps": "many"}')).out)
    await wait_until(lambda: has_ended(stack, link))
    reads = (
        ("show", str(link.id)),
        ("logs", str(link.id), "--follow"),
        ("jobs", "--failed"),
        ("jobs", "--kind", "countdown", "--error-type", "InvalidPayload"),
        ("kinds",),
    )
    locked = {"SUBMITTER_API_KEYS": str(keys), "SUBMITTER_OPEN": "", "DASHBOARD_OPEN": ""}
    async with running_submitter(stack, **locked) as submitter:
        env = {"HEADWAY_URL": submitter.url, "HEADWAY_API_KEY": "the-key"}
        *completed, workers = await asyncio.gather(
            *(headway(stack, *command, **env) for command in (*reads, ("workers",)))
        )
    assert [each.code for each in completed] == [0] * len(reads), completed
    assert '{"steps": "many"}' in completed[0].out
    assert workers.code == 1
    assert "role `operate`" in workers.err


async def test_demo_shows_every_outcome(tmp_path: Path) -> None:
    """`make demo` shows every outcome, survives the worker that it kills, exits with 0 and leaves no files."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dev.demo",
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    text = out.decode()
    assert (process.returncode, err.decode()) == (0, "")
    for pattern in (
        "thumbnails .* succeeded, 100 %, attempt 2 of 5",
        "crawl .* succeeded",
        "countdown .* succeeded",
        "import .* failed, .*, row 40",
        "video .* cancelled",
    ):
        assert re.search(pattern, text), pattern
    links = [Link.parse(link) for link in re.findall(r"http\S+#\S+", text)]
    assert len(links) == 5
    port = int(links[0].base.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert not list(tmp_path.iterdir())
