"""The `headway` command as people and scripts call it, and `make demo`."""

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
from tests.stack import JOBS, Stack, running
from tests.waiting import wait_until

ENDLESS = ("countdown", "--payload", '{"steps": 9000, "delay_s": 0.05}')


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    env = {"WORKER_JOBS": JOBS, "GRACE_S": "1"}
    async with running(tmp_path_factory.mktemp("cli"), **env) as stack:
        yield stack


class Ended(NamedTuple):
    """What a command has left."""

    code: int | None
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines that it printed."""
        return self.out.splitlines()


class Terminal:
    """A terminal of 120 columns, and all that was written to it."""

    def __init__(self) -> None:
        self.mine, self.theirs = os.openpty()
        self.text = ""
        asyncio.get_running_loop().add_reader(self.mine, self._read)

    def _read(self) -> None:
        self.text += os.read(self.mine, 65_536).decode(errors="replace")

    def close(self) -> None:
        """Close both ends."""
        asyncio.get_running_loop().remove_reader(self.mine)
        os.close(self.mine)
        os.close(self.theirs)


@pytest.fixture
async def terminal() -> AsyncIterator[Terminal]:
    """Open a terminal."""
    terminal = Terminal()
    yield terminal
    terminal.close()


async def start(
    stack: Stack, *arguments: str, stdin: int = DEVNULL, stdout: int = PIPE, stderr: int = PIPE, **more: str
) -> Process:
    """Start `headway` with these arguments."""
    env = {**os.environ, "HEADWAY_URL": stack.url, "COLUMNS": "120", "TERM": "xterm", **more}
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


async def headway(stack: Stack, *arguments: str, given: str | None = None, **more: str) -> Ended:
    """Run `headway` to its end, with something on stdin."""
    process = await start(stack, *arguments, stdin=DEVNULL if given is None else PIPE, **more)  # type: ignore[arg-type]
    out, err = await asyncio.wait_for(process.communicate(None if given is None else given.encode()), 60)
    return Ended(process.returncode, out.decode(), err.decode())


async def test_submit_prints_the_link(stack: Stack) -> None:
    """Without --watch the only line is the page's link, with --json the receipt."""
    ended = await headway(stack, "submit", "echo", "--payload", "[1, 2.50]")
    assert (ended.code, ended.err, len(ended.lines)) == (0, "", 1)
    link = Link.parse(ended.out)
    assert link.base == stack.url
    await wait_until(lambda: _ended(stack, link))
    assert (await stack.snapshot(str(link.id), link.token))["result"] == [1, 2.5]
    receipt = json.loads((await headway(stack, "submit", "echo", "--json")).out)
    assert receipt["links"]["page"].endswith(f"/jobs/{receipt['id']}#{receipt['token']}")


async def _ended(stack: Stack, link: Link) -> bool:
    return bool((await stack.snapshot(str(link.id), link.token))["finished_at"])


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("countdown", "--payload", '{"steps": 3, "delay_s": 0.05}'), 0, 'succeeded, 100 %, "Counted 3 steps"'),
        (("broken",), 1, "failed, ValueError: the cable is loose"),
        (("nobody-knows", "--max-attempts", "1"), 1, "failed, UnknownKind"),
        (("countdown", "--timeout", "0.2", "--max-attempts", "1"), 1, "failed, Timeout"),
    ],
)
async def test_the_exit_code_is_the_ending(stack: Stack, arguments: tuple[str, ...], code: int, told: str) -> None:
    """A watched job's last line is its ending, which decides the exit code; no line repeats or has a token."""
    ended = await headway(stack, "submit", *arguments, "--watch")
    assert (ended.code, ended.err) == (code, "")
    assert told in ended.lines[-1]
    assert len(set(ended.lines)) == len(ended.lines)
    assert "eyJ" not in ended.out
    assert "\x1b" not in ended.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("countdown", "--payload", "{"), "argument --payload"),
        (("countdown", "--max-attempts", "0"), "max_attempts"),
        (("countdown", "--delay", "-1"), "delay_s"),
        (("countdown", "--delay", "nan"), "delay_s"),
        (("",), "kind"),
        (("echo", "--payload", f'"{"x" * 33_000}"'), "payload"),
    ],
)
async def test_a_wrong_submission_is_a_wrong_call(stack: Stack, arguments: tuple[str, ...], said: str) -> None:
    """What is refused for what it says ends with 2, a line that names it, and nothing on stdout."""
    ended = await headway(stack, "submit", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err.splitlines()[-1]


async def test_snapshots_are_lines_of_json(stack: Stack) -> None:
    """With --json each snapshot is a line, versions rising, as the wire has it."""
    payload = '{"steps": 5, "delay_s": 0.05}'
    ended = await headway(stack, "submit", "countdown", "--payload", "@-", "--watch", "--json", given=payload)
    jobs = [json.loads(line) for line in ended.lines]
    assert [job["version"] for job in jobs] == sorted({job["version"] for job in jobs})
    assert jobs[-1] == await stack.snapshot(jobs[-1]["id"], await minted(stack, jobs[-1]["id"]))


async def test_a_poor_terminal_is_no_error(stack: Stack) -> None:
    """What an output cannot show is replaced."""
    ended = await headway(stack, "submit", "echo", "--payload", '"ü ☂"', "--watch", PYTHONIOENCODING="ascii")
    assert (ended.code, ended.err) == (0, "")
    assert '"? ?"' in ended.lines[-1]


async def minted(stack: Stack, job_id: str) -> str:
    """Return what `headway token` prints."""
    return (await headway(stack, "token", job_id, TOKEN_KEY_FILE=stack.env["TOKEN_KEY_FILE"])).out.strip()


async def test_a_job_is_watched_and_cancelled_by_its_link(stack: Stack) -> None:
    """Link and token come from arguments, stdin and the environment; a cancelled job ends its watch with 130."""
    link = (await headway(stack, "submit", *ENDLESS)).out.strip()
    page, _, token = link.partition("#")
    watches = [
        await start(stack, "watch", link),
        await start(stack, "watch", page, HEADWAY_TOKEN=token),
        await start(stack, "watch", "-", "--json", stdin=PIPE),
        await start(stack, "watch", page, "--token-stdin", stdin=PIPE),
    ]
    for process, text in ((watches[2], link), (watches[3], token)):
        assert process.stdin is not None
        process.stdin.write(text.encode())
        process.stdin.close()
    for process in watches:
        assert process.stdout is not None
        assert await process.stdout.readline()
    cancelled = await headway(stack, "cancel", "-", given=link)
    assert (cancelled.code, cancelled.err) == (0, "")
    assert "cancel" in cancelled.out
    for process in watches:
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert (process.returncode, err) == (130, b"")
        assert b"cancelled" in out.splitlines()[-1]
    again = await headway(stack, "cancel", page, "--json", HEADWAY_TOKEN=token)
    assert (again.code, json.loads(again.out)["status"]) == (0, "cancelled")


async def test_several_jobs_are_watched_at_once(stack: Stack) -> None:
    """Of several jobs the worst ending counts, and one that cannot be watched does not keep the others back."""
    links = [(await headway(stack, "submit", kind)).out.strip() for kind in ("echo", "broken", "echo")]
    links[0] = f"{links[0][:-4]}AAAA"
    ended = await headway(stack, "watch", "-", given="\n".join(links))
    assert ended.code == 1
    assert ended.err == "headway: The token is not valid for this service.\n"
    assert {line.split()[2].strip(",") for line in ended.lines} >= {"failed", "succeeded"}
    assert (await headway(stack, "watch", links[2], links[2])).code == 0


async def test_a_token_that_may_only_watch_cannot_cancel(stack: Stack) -> None:
    """A refusal is a line on stderr and code 1."""
    job_id = (await stack.submit("countdown", delay_s=60))["id"]
    made = await headway(
        stack, "token", job_id, "--watch-only", "--link", stack.url, TOKEN_KEY_FILE=stack.env["TOKEN_KEY_FILE"]
    )
    ended = await headway(stack, "cancel", "-", given=made.out)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)


async def test_ctrl_c_leaves_the_job_running(stack: Stack) -> None:
    """Ctrl-C ends the watching with 130, says so, shows no token to a log, and the job goes on."""
    link = (await headway(stack, "submit", *ENDLESS)).out.strip()
    page, _, token = link.partition("#")
    process = await start(stack, "watch", page, HEADWAY_TOKEN=token)
    assert process.stdout is not None
    while b"%" not in await process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, err) == (130, b"headway: no longer watched; what runs goes on running\n")
    job_id = Link.parse(link).id
    before = await stack.snapshot(str(job_id), token)
    assert before["status"] == "running"

    async def further() -> bool:
        return bool((await stack.snapshot(str(job_id), token))["version"] > before["version"])

    await wait_until(further)
    await headway(stack, "cancel", link)


async def test_a_terminal_has_bars(stack: Stack, terminal: Terminal) -> None:
    """On a terminal a job is a bar that is redrawn; Ctrl-C tells a person how to come back."""
    process = await start(stack, "submit", *ENDLESS, "--watch", stdout=terminal.theirs, stderr=terminal.theirs)
    await wait_until(lambda: re.search(r"Step \d+ of 9000", terminal.text))
    assert "━" in terminal.text
    assert "eyJ" not in terminal.text
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 20) == 130
    link = await wait_until(lambda: re.search(r"to come back: (\S+)\r\n", terminal.text))
    terminal.text = ""
    assert (await headway(stack, "cancel", link[1])).code == 0
    process = await start(stack, "watch", link[1], stdout=terminal.theirs, stderr=terminal.theirs)
    assert await asyncio.wait_for(process.wait(), 20) == 130
    await wait_until(lambda: "■" in terminal.text and "cancelled" in terminal.text)


async def test_a_reader_that_leaves_is_no_error(stack: Stack) -> None:
    """When nobody reads any more, as behind `head -1`, the command ends without a word."""
    process = await start(stack, "submit", *ENDLESS, "--watch", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    job = json.loads(await process.stdout.readline())
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert await asyncio.wait_for(process.stderr.read(), 20) == b""
    assert await asyncio.wait_for(process.wait(), 20) == 1
    await headway(stack, "cancel", f"{stack.url}/jobs/{job['id']}", HEADWAY_TOKEN=await minted(stack, job["id"]))


async def test_an_api_key_opens_a_closed_submitter(tmp_path: Path) -> None:
    """The API key comes from a file or the environment, and without one the command ends with 1."""
    keys = tmp_path / "api-keys"
    keys.write_text("the-key\n")
    async with running(tmp_path / "state", SUBMITTER_API_KEYS=str(keys)) as stack:
        assert (await headway(stack, "submit", "countdown")).code == 1
        assert (await headway(stack, "submit", "countdown", "--api-key-file", str(keys))).code == 0
        assert (await headway(stack, "submit", "countdown", HEADWAY_API_KEY="the-key")).code == 0


async def test_the_demo_ends_by_itself(tmp_path: Path) -> None:
    """`make demo` shows every ending, survives its own kill, exits with 0 and leaves nothing behind."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dev.demo",
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 110)
    text = out.decode()
    assert (process.returncode, err.decode()) == (0, "")
    for ending in (
        "thumbnails .* succeeded, 100 %, attempt 2 of 5",
        "crawl .* succeeded",
        "countdown .* succeeded",
        "import .* failed, .*Fail: row 40",
        "video .* cancelled",
    ):
        assert re.search(ending, text), ending
    links = [Link.parse(link) for link in re.findall(r"http\S+#\S+", text)]
    assert len(links) == 5
    port = int(links[0].base.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert not list(tmp_path.iterdir())
