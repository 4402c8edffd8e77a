"""`make up` itself: what is in its way, what it does about a process that dies, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from dev.environment import PORTS, ROOT
from tests.stack import Stack, running
from tests.waiting import free_ports, wait_until

NAMES = ("submitter", "worker", "notifier", "azurite", "valkey")


async def launch(folder: Path, **env: str) -> tuple[int, str]:
    """Run the launcher until it ends by itself; return its exit code and what it printed."""
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dev.up",
        cwd=ROOT,
        env={**os.environ, **ports, "HEADWAY_DIR": str(folder), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode()


def alive(pid: int) -> bool:
    """Tell whether a process lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(stack: Stack) -> dict[str, int]:
    """Return the processes of a run by name."""
    return {name: pid for name in NAMES if (pid := stack.pid(name)) is not None}


async def test_ends_without_an_orphan(tmp_path: Path) -> None:
    """After SIGINT no process of the run is left, and the state folder holds what the contract names."""
    async with running(tmp_path) as stack:
        before = pids(stack)
        assert set(before) == set(NAMES)
        assert all(alive(pid) for pid in before.values())
        assert {"env", "pid", "keys", "azurite", "valkey", "logs"} <= {path.name for path in tmp_path.iterdir()}
        assert {path.name for path in (tmp_path / "keys").iterdir()} == {"report.key", "token.pem", "token.pub.pem"}
        assert (tmp_path / "keys" / "token.pem").stat().st_mode & 0o077 == 0
        assert stack.output[-1].strip().endswith(f"{stack.url}/")
    assert not [name for name, pid in before.items() if alive(pid)]


async def test_names_every_taken_port(tmp_path: Path) -> None:
    """Ports that are taken end the start with an error that names each, its process and its setting."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        ports = [str(one.getsockname()[1]) for one in (first, second)]
        code, output = await launch(tmp_path, SUBMITTER_PORT=ports[0], VALKEY_PORT=ports[1])
    assert code == 1
    assert f"port {ports[0]} (submitter)" in output
    assert "set SUBMITTER_PORT" in output
    assert f"port {ports[1]} (valkey)" in output


async def test_gives_up_on_what_dies_at_once(tmp_path: Path) -> None:
    """Three deaths within ten seconds end the run with code 1 and the last lines, and nothing is left."""
    code, output = await launch(tmp_path, WORKER_JOBS="no.such.module")
    assert code == 1
    assert "worker died 3 times" in output
    assert "no.such.module" in output.split("its last lines:")[1]
    assert not list((tmp_path / "pid").iterdir())


@pytest.mark.skipif(sys.platform == "darwin", reason="a killed make is a Linux script's habit")
async def test_stops_when_its_parent_is_killed(tmp_path: Path) -> None:
    """A launcher whose parent has been killed without a word stops the run by itself."""
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    shell = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        f"{sys.executable} -m dev.up; true",
        cwd=ROOT,
        env={**os.environ, **ports, "HEADWAY_DIR": str(tmp_path)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    found = await wait_until(lambda: _all_pids(tmp_path), timeout_s=60)
    shell.send_signal(signal.SIGKILL)
    await shell.wait()
    await wait_until(lambda: not any(alive(pid) for pid in found), timeout_s=30)


def _all_pids(folder: Path) -> list[int]:
    files = [folder / "pid" / name for name in NAMES]
    return [int(file.read_text()) for file in files] if all(file.exists() for file in files) else []
