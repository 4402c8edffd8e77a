"""Runs the commands of a page of the documentation, and records those that would change the machine or a cluster."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from dev.environment import ROOT
from tests.documents import Document
from tests.waiting import PATIENCE_S

RECORDED = ("az", "docker", "kind", "kubectl", "make")
# Writes a command in one piece, because the commands of a pipe run at the same time.
RECORDER = """#!/bin/sh
line=$(basename "$0")
for argument; do line="$line '$argument'"; done
printf '%s\\n' "$line" >> "$COMMANDS"
"""
VARIABLES = {  # that the pages expect the reader to set
    "CONNECTION_STRING": "UseDevelopmentStorage=true",
    "REDIS_URL": "redis://redis",
    "GROUP": "group",
    "ISSUER": "https://issuer.example.org",
    "VAULT": "myvault",
    "WORKSPACE_ID": "workspace",
    "CLUSTER": "cluster",
    "ACTION_GROUP_ID": "group",
    "GRAFANA": "grafana",
}


def write_programs(folder: Path, text: str = RECORDER) -> Path:
    """Write the recorder in place of each program; return the folder for the PATH."""
    programs = folder / "programs"
    programs.mkdir()
    for name in RECORDED:
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return programs


def run_commands(page: Document, folder: Path) -> list[list[str]]:
    """Run all commands of a page in a folder, in their order; return those that were recorded."""
    script = "\n".join(["set -eu", *(example.text for example in page.examples("sh")), "wait"])
    path = os.pathsep.join([str(write_programs(folder)), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, **VARIABLES, "PATH": path, "COMMANDS": str(folder / "commands"), "GIT_DIR": str(ROOT / ".git")}
    completed = subprocess.run(
        ["sh", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    return [shlex.split(line) for line in (folder / "commands").read_text().splitlines()]


def options(arguments: list[str], name: str) -> list[str]:
    """Return the values of an option, written `--name value` or `--name=value`."""
    joined = " ".join(arguments)
    return re.findall(rf"--{name}[ =](\S+)", joined)


def of_program(commands: list[list[str]], *start: str) -> list[list[str]]:
    """Return the arguments of the commands that begin with these words, without them."""
    found = [command[len(start) :] for command in commands if command[: len(start)] == list(start)]
    assert found, f"the page has no command {' '.join(start)}"
    return found
