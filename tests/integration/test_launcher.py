"""The launcher, `make up`: how it starts, what it does when a process dies, and how it stops."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from dev.environment import PORTS, ROOT, STORE_PORTS, programs
from tests.stack import Stack, running
from tests.waiting import PATIENCE_S, free_ports, is_running, wait_until

PROCESSES = ("submitter", "worker", "notifier", "azurite", "valkey")
# A process may need seconds to die.
UP_ON_A_BUSY_MACHINE = "from dev import up; up.WINDOW_S = 600.0; raise SystemExit(up.main())"


async def run_launcher(folder: Path, *command: str, **env: str) -> tuple[int, str]:
    """Run the launcher, or this Python command, until it exits by itself; return its exit code and its output."""
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(command or ("-m", "dev.up")),
        cwd=ROOT,
        env={**os.environ, **ports, "HEADWAY_DIR": str(folder), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode is not None
    return process.returncode, output.decode()


def pids_by_name(stack: Stack) -> dict[str, int]:
    """Return the process ids of a run by the names of the processes."""
    return {name: pid for name in PROCESSES if (pid := stack.pid(name)) is not None}


async def test_interrupt_stops_every_process(tmp_path: Path) -> None:
    """No process is left after SIGINT. During the run, the state folder has the documented files."""
    async with running(tmp_path) as stack:
        pids = pids_by_name(stack)
        assert set(pids) == set(PROCESSES)
        assert all(is_running(pid) for pid in pids.values())
        assert {"env", "pid", "keys", "azurite", "valkey", "logs"} <= {path.name for path in tmp_path.iterdir()}
        assert {path.name for path in (tmp_path / "keys").iterdir()} == {"report.key", "token.pem", "token.pub.pem"}
        assert (tmp_path / "keys" / "token.pem").stat().st_mode & 0o077 == 0
        assert any(line.strip().endswith(f"{stack.url}/") for line in stack.output)
    assert not [name for name, pid in pids.items() if is_running(pid)]


async def test_the_stores_run_alone(tmp_path: Path) -> None:
    """`make stores` runs Azurite and Valkey beside a system that has the ports of the services."""
    with socket.create_server(("127.0.0.1", 0)) as submitter:
        port = str(submitter.getsockname()[1])
        async with running(tmp_path, "stores", ready="The stores are ready", SUBMITTER_PORT=port) as stack:
            pids = pids_by_name(stack)
            assert set(pids) == {"azurite", "valkey"}
            ports = " and ".join(stack.env[variable] for variable in STORE_PORTS)
            assert any(line.strip().endswith(ports) for line in stack.output)
            assert all([await program.is_ready() for program in programs(stack.env, tmp_path)[0]])
    assert not [name for name, pid in pids.items() if is_running(pid)]


async def test_error_names_every_taken_port(tmp_path: Path) -> None:
    """If ports are taken, the launcher exits and names each port with its service and its setting."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        ports = [str(server.getsockname()[1]) for server in (first, second)]
        code, output = await run_launcher(tmp_path, SUBMITTER_PORT=ports[0], VALKEY_PORT=ports[1])
    assert code == 1
    assert f"port {ports[0]} (submitter)" in output
    assert "set SUBMITTER_PORT" in output
    assert f"port {ports[1]} (valkey)" in output


async def test_launcher_exits_when_a_process_keeps_dying(tmp_path: Path) -> None:
    """After three deaths in a short time it prints the process's last lines, stops the others and exits with code 1."""
    code, output = await run_launcher(tmp_path, "-c", UP_ON_A_BUSY_MACHINE, WORKER_JOBS="no.such.module")
    assert code == 1
    assert "worker died 3 times" in output
    assert "no.such.module" in output.split("its last lines:")[1]
    assert not list((tmp_path / "pid").iterdir())


@pytest.mark.skipif(sys.platform == "darwin", reason="only scripts on Linux kill make")
async def test_launcher_stops_when_its_parent_is_killed(tmp_path: Path) -> None:
    """A launcher whose parent is killed stops all processes, although it gets no signal itself."""
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
    pids = await wait_until(lambda: _all_pids(tmp_path))
    shell.send_signal(signal.SIGKILL)
    await shell.wait()
    await wait_until(lambda: not any(is_running(pid) for pid in pids))


def _all_pids(folder: Path) -> list[int]:
    files = [folder / "pid" / name for name in PROCESSES]
    return [int(file.read_text()) for file in files] if all(file.exists() for file in files) else []
