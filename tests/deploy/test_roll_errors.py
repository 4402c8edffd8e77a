"""`make roll` where docker does not do what it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dev.environment import ROOT
from tests.waiting import PATIENCE_S

# Plays docker: the service has the container `a`, and after `up` also those of the file `more`.
DOCKER = f"""#!{sys.executable} -IS
import json, pathlib, sys
folder, arguments = pathlib.Path(__file__).parent, sys.argv[1:]
with (folder / "commands").open("a") as file:
    print(*arguments, file=file)
if "up" in arguments:
    (folder / "started").touch()
elif "ps" in arguments:
    print("a", (folder / "more").read_text() if (folder / "started").exists() else "")
elif arguments[0] == "inspect":
    state = {{"Status": "running", "ExitCode": 0}}
    print(json.dumps([{{"Id": id, "Name": id, "State": state, "RestartCount": 0}} for id in arguments[1:]]))
"""


def roll(folder: Path) -> subprocess.CompletedProcess[str]:
    """Roll the workers with the docker of a folder, if it has one."""
    command = [sys.executable, str(ROOT / "deploy/compose/roll.py"), "worker"]
    return subprocess.run(command, env={"PATH": str(folder)}, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.mark.parametrize("more", ["", "b c"], ids=["none", "two"])
def test_roll_ends_if_another_command_changes_the_replicas(tmp_path: Path, more: str) -> None:
    """The new replica is not known then, as with two rolls at once; no container is stopped or removed."""
    (tmp_path / "more").write_text(more)
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    completed = roll(tmp_path)
    assert completed.returncode == 1
    count = len(more.split())
    assert completed.stderr.startswith(f"worker has {count} new replicas instead of one")
    commands = (tmp_path / "commands").read_text().splitlines()
    assert not [command for command in commands if command.startswith(("stop", "rm"))]


def test_roll_needs_docker(tmp_path: Path) -> None:
    """Without docker there is a message, and no traceback."""
    completed = roll(tmp_path)
    assert completed.returncode == 1
    assert completed.stderr.startswith("docker cannot be run: ")
    assert "Traceback" not in completed.stderr
