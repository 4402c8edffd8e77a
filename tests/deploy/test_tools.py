"""Linters and schema validators for YAML, shell scripts, Dockerfiles and manifests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from tests.deploy.manifests import FOLDERS, render
from tests.documents import Document
from tests.waiting import PATIENCE_S

BIN = Path(sys.executable).parent
CHECKOV = ROOT / ".venv-checkov/bin/checkov"
# Skipped checks and why; the production overlay skips only the first.
SKIPPED_CHECKS = {
    "CKV_K8S_11": "a CPU limit would throttle the event loop and delay every connection",
    "CKV_K8S_15": "images have a version or a digest, so a cached image is the right one",
    "CKV_K8S_43": "a digest exists only after the image was pushed; the production overlay has one",
    "CKV_K8S_40": "the images of the stores have their own users, and run only in development",
    "CKV_DOCKER_7": "the version of the base image is in an ARG",
    "CKV_DOCKER_2": "three services share the image; compose.yaml and the manifests define their health checks",
}


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


@pytest.mark.parametrize("version", ["1.32", "1.34", "1.37"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_manifests_match_their_schema(folder: str, version: str, tmp_path: Path) -> None:
    """The manifests are valid in several versions of Kubernetes and have no unknown fields."""
    run(BIN / "kubernetes-validate", "--strict", "-k", version, write_rendered(folder, tmp_path))


def test_manifest_of_the_recipe_matches_its_schema(tmp_path: Path) -> None:
    """The CronJob of docs/recipes.md is valid, and has no unknown fields."""
    manifest, _alerts = (text for _, text in Document("docs/recipes.md").examples("yaml"))
    file = tmp_path / "cronjob.yaml"
    file.write_text(manifest)
    run(BIN / "kubernetes-validate", "--strict", "-k", "1.34", file)


@pytest.mark.checkov
@pytest.mark.parametrize("folder", FOLDERS)
def test_checkov_accepts_the_manifests(folder: str, tmp_path: Path) -> None:
    """Only checks of `SKIPPED_CHECKS` would fail."""
    skipped = list(SKIPPED_CHECKS)[:1] if folder == "overlays/production" else list(SKIPPED_CHECKS)
    checkov("kubernetes", write_rendered(folder, tmp_path), skipped)


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


def write_rendered(folder: str, directory: Path) -> Path:
    """Write the rendered objects of a folder to one file and return its path."""
    file = directory / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(render(folder)))
    return file
