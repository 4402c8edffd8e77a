"""The npm locks contain no URL of a registry."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from dev.environment import ROOT
from dev.npm_lock import remove_urls

LOCKS = [path for path in ROOT.glob("*/**/package-lock.json") if "node_modules" not in path.parts]
PACKAGE = {"version": "1.0.0", "integrity": "sha512-AA==", "dependencies": {"b": "^2.0.0"}}
URLS = {"resolved": "https://registry.example/a.tgz", "funding": [{"url": "https://a.example"}]}


def lock(package: Mapping[str, object]) -> str:
    """Return a package-lock.json with one package."""
    return json.dumps({"lockfileVersion": 3, "packages": {"node_modules/a": package}}, indent=2) + "\n"


def test_fields_with_urls_are_removed(tmp_path: Path) -> None:
    """The command rewrites the file; version, integrity and dependencies stay."""
    file = tmp_path / "package-lock.json"
    file.write_text(lock({**PACKAGE, **URLS}))
    subprocess.run([sys.executable, "-m", "dev.npm_lock", file], cwd=ROOT, check=True)
    assert file.read_text() == lock(PACKAGE)


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_locks_contain_no_urls(path: Path) -> None:
    """The locks of this repository are what the command writes."""
    assert remove_urls(path.read_text()) == path.read_text()
