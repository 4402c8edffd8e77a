"""Linters and schema validators for YAML, shell scripts, Dockerfiles and manifests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from tests.deploy.manifests import COMPONENTS, FOLDERS, Object, WithComponents, render
from tests.waiting import PATIENCE_S

BIN = Path(sys.executable).parent
CHECKOV = ROOT / ".venv-checkov/bin/checkov"
# Skipped checks and why; production and azure skip only the first.
SKIPPED_CHECKS = {
    "CKV_K8S_11": "a CPU limit would throttle the event loop and delay every connection",
    "CKV_K8S_15": "images have a version or a digest, so a cached image is the right one",
    "CKV_K8S_43": "a digest exists only after the image was pushed; the production overlay has one",
    "CKV_K8S_40": "the images of the stores have their own users, and run only in development",
    "CKV_DOCKER_7": "the version of the base image is in an ARG",
    "CKV_DOCKER_2": "three services share the image; compose.yaml and the manifests define their health checks",
}


ONLY_THE_BASE = "CKV2_K8S_6"  # it has no network policies, which are a component
PINNED = ("overlays/production", "overlays/azure")


def run(*command: str | Path) -> None:
    """Run a tool in the repository; fail with its output if it reports anything."""
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert completed.returncode == 0, completed.stdout + completed.stderr


def project_files(*patterns: str) -> list[str]:
    """Return the files of the repository that match the patterns and are not ignored by git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(listed.stdout.split())


def test_yamllint_accepts_the_yaml_files() -> None:
    """The YAML files cause neither errors nor warnings."""
    run(BIN / "yamllint", "--strict", *project_files("*.yaml", "*.yml"))


def test_shellcheck_accepts_the_scripts() -> None:
    """The scripts are all files that start with a shell's shebang."""
    shebangs = (b"#!/bin/sh", b"#!/usr/bin/env bash")
    scripts = [name for name in project_files() if (ROOT / name).read_bytes()[:30].startswith(shebangs)]
    assert {".ci/run", "examples/shell-worker/worker.sh"} <= set(scripts)
    run(BIN / "shellcheck", *scripts)


def test_hadolint_accepts_the_dockerfiles() -> None:
    """The Dockerfiles cause no warnings."""
    run(BIN / "hadolint", *project_files("*Dockerfile"))


def test_compose_files_match_their_schema() -> None:
    """The files are valid by the schema of the Compose specification."""
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", *project_files("*compose.yaml"))


@pytest.mark.checkov
@pytest.mark.parametrize("folder", FOLDERS)
def test_checkov_accepts_the_manifests(folder: str, tmp_path: Path) -> None:
    """Only checks of `SKIPPED_CHECKS` would fail; with images by digest and without stores, only the first."""
    skipped = list(SKIPPED_CHECKS)[:1] if folder in PINNED else [*SKIPPED_CHECKS]
    checkov_manifests(render(folder), tmp_path, [*skipped, ONLY_THE_BASE] if folder == "base" else skipped)


@pytest.mark.checkov
@pytest.mark.parametrize("step", [1, -1])
def test_checkov_accepts_all_components(step: int, with_components: WithComponents, tmp_path: Path) -> None:
    """Only checks of `SKIPPED_CHECKS` would fail."""
    checkov_manifests(with_components(*COMPONENTS[::step]), tmp_path, list(SKIPPED_CHECKS))


@pytest.mark.checkov
def test_checkov_accepts_the_dockerfile() -> None:
    """Only checks of `SKIPPED_CHECKS` would fail."""
    checkov("dockerfile", ROOT / "Dockerfile", list(SKIPPED_CHECKS))


def checkov(framework: str, file: Path, skipped: list[str]) -> None:
    """Check one file with checkov."""
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
        ",".join(skipped),
    )


def checkov_manifests(objects: list[Object], directory: Path, skipped: list[str]) -> None:
    """Check rendered objects with checkov."""
    file = directory / "rendered.yaml"
    file.write_text(yaml.dump_all(objects, Dumper=yaml.CSafeDumper))
    checkov("kubernetes", file, skipped)
