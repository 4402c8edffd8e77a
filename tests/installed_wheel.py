"""The wheel, built from the repository and installed into an empty virtual environment outside of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from dev.environment import ROOT

PINNED = re.compile(r"^[\w.-]+==[^\\\n]+", re.MULTILINE)


def build(target: str, folder: Path, source: Path = ROOT) -> Path:
    """Build a distribution into an empty folder and return its path; targets are `wheel`, `wheel:editable`, `sdist`."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


def constraints(lock: str) -> str:
    """Return the versions in a lock of the repository as constraints for pip, without hashes."""
    return "\n".join(PINNED.findall((ROOT / lock).read_text()))


def install(wheel: Path, folder: Path, *extras: str) -> None:
    """Create a virtual environment and install a wheel with extras into it, in the versions of the lock."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    file = folder / "constraints.txt"
    file.write_text(constraints("requirements-local.lock"))
    pip = (sys.executable, "-m", "pip", "--quiet", "--python", str(folder / "bin/python"))
    requirement = f"headway[{','.join(extras)}] @ {wheel.as_uri()}"
    subprocess.run([*pip, "install", "--constraint", str(file), requirement], check=True)
