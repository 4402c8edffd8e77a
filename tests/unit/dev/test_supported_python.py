"""The choice of a Python for the virtual environment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dev import supported_python
from dev.environment import ROOT


def test_this_python_is_supported() -> None:
    """The file runs on its own, outside the package, and exits with 0."""
    assert subprocess.run([sys.executable, ROOT / "dev/supported_python.py"], cwd="/", check=False).returncode == 0


@pytest.mark.parametrize(("version", "supported"), [((3, 10, 14), False), ((3, 11, 0), True), ((4, 0, 0), True)])
def test_old_python_is_rejected(version: tuple[int, ...], supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 is the first one that can run Headway."""
    monkeypatch.setattr(sys, "version_info", version)
    assert supported_python.is_supported() == supported


def test_python_without_venv_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian has `ensurepip` in a package of its own, which may be missing."""
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert not supported_python.is_supported()
