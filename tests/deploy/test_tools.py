"""What linters and validators say of everything that is no Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from tests.deploy.manifests import FOLDERS, rendered

BIN = Path(sys.executable).parent
CHECKOV = ROOT / ".venv-checkov/bin/checkov"
# What a check is left out for; of production only the first.
LEFT_OUT = {
    "CKV_K8S_11": "a limit of CPU would stall the event loop, and with it every socket",
    "CKV_K8S_15": "images have a version or a digest, so what a node has is what was meant",
    "CKV_K8S_43": "a digest is known once an image was pushed: the production overlay has it",
    "CKV_K8S_40": "the stores' images have their own users; they run in development only",
    "CKV_DOCKER_7": "the base's version is in an ARG",
    "CKV_DOCKER_2": "one image for three services: compose.yaml and the manifests ask each whether it is well",
}


def run(*command: str | Path) -> None:
    """Run a tool in the project's folder; what it finds is an error."""
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert told.returncode == 0, told.stdout + told.stderr


def files(*patterns: str) -> list[str]:
    """Return the project's own files of some kinds."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(listed.stdout.split())


def test_yaml_is_clean() -> None:
    """As yamllint has it."""
    run(BIN / "yamllint", "--strict", *files("*.yaml", "*.yml"))


def test_shell_is_clean() -> None:
    """As shellcheck has it."""
    scripts = [
        name for name in files() if (ROOT / name).read_bytes()[:30].startswith((b"#!/bin/sh", b"#!/usr/bin/env bash"))
    ]
    assert {".ci/run", "examples/shell-worker/worker.sh"} <= set(scripts)
    run(BIN / "shellcheck", *scripts)


def test_dockerfiles_are_clean() -> None:
    """As hadolint has it."""
    run(BIN / "hadolint", *files("*Dockerfile"))


def test_compose_files_fit_their_schema() -> None:
    """As the Compose specification has it."""
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files("*compose.yaml"))


@pytest.mark.parametrize("version", ["1.32", "1.34", "1.37"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_manifests_fit_their_schema(folder: str, version: str, tmp_path: Path) -> None:
    """Of several Kubernetes, without an unknown field."""
    run(BIN / "kubernetes-validate", "--strict", "-k", version, written(folder, tmp_path))


@pytest.mark.checkov
@pytest.mark.parametrize("folder", FOLDERS)
def test_checkov_accepts_the_manifests(folder: str, tmp_path: Path) -> None:
    """But for what has a reason."""
    left_out = list(LEFT_OUT)[:1] if folder == "overlays/production" else list(LEFT_OUT)
    checkov("kubernetes", written(folder, tmp_path), left_out)


@pytest.mark.checkov
def test_checkov_accepts_the_dockerfile() -> None:
    """But for what has a reason."""
    checkov("dockerfile", ROOT / "Dockerfile", list(LEFT_OUT))


def checkov(framework: str, file: Path, left_out: list[str]) -> None:
    """Check one file."""
    run(
        CHECKOV,
        "--framework",
        framework,
        "--skip-download",
        "--quiet",
        "--compact",
        "--file",
        file,
        "--skip-check",
        ",".join(left_out),
    )


def written(folder: str, directory: Path) -> Path:
    """Write a rendered folder to one file."""
    file = directory / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(rendered(folder)))
    return file
