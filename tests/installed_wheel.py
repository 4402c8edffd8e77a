"""The wheel, built from the repository and installed into an empty virtual environment outside of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from dev.environment import ROOT

# The certificates with which pip checks the registry; `conftest.py` changes them when the tests begin.
CERTIFICATES = {name: value for name, value in os.environ.items() if name.startswith("SSL_CERT_")}
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


def install(wheel: Path, folder: Path) -> None:
    """Create a virtual environment and install a wheel into it, beside the packages of this environment.

    `tests/unit/test_package.py` checks that the wheel requires the packages that it imports, and the test of
    `docs/get-started.md` lets pip install them.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    locate = "import sysconfig; print(sysconfig.get_path('purelib'))"
    (own, shared) = (
        subprocess.run([each, "-c", locate], check=True, capture_output=True, text=True).stdout.strip()
        for each in (python, sys.executable)
    )
    # Python reads no .pth file in a folder that one names, so the repository's editable install stays out.
    (Path(own) / "shared.pth").write_text(f"{shared}\n")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(python))
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)
