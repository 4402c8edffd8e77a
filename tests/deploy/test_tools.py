"""Linters and schema validators for YAML, shell scripts, Dockerfiles and manifests."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from tests.deploy.manifests import COMPONENTS, FOLDERS, Object, render, write_overlay
from tests.documents import Document
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
ALL_COMPONENTS = {"all": COMPONENTS, "reversed": COMPONENTS[::-1]}
KUBERNETES_PAGE = Document("docs/kubernetes.md")
KUBERNETES_APIS = {"v1", "apps/v1", "autoscaling/v2", "networking.k8s.io/v1", "policy/v1"}


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


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a file with the objects of each folder, and of all components in both orders."""
    directory = tmp_path_factory.mktemp("rendered")
    folders = {folder: folder for folder in FOLDERS}
    for name, components in ALL_COMPONENTS.items():
        (directory / name).mkdir()
        folders[name] = write_overlay(directory / name, components=components)
    files = {name: directory / f"{number}.yaml" for number, name in enumerate(folders)}
    for name, folder in folders.items():
        files[name].write_text(yaml.dump_all(render(folder), Dumper=yaml.CSafeDumper))
    return files


@pytest.mark.parametrize("version", ["1.32", "1.34", "1.37"])
def test_manifests_match_their_schema(rendered: dict[str, Path], version: str) -> None:
    """The manifests are valid in several versions of Kubernetes and have no unknown fields."""
    run(BIN / "kubernetes-validate", "--strict", "-k", version, *rendered.values())


def schema_of(obj: Object) -> Path:
    """Return the file with the schema of a custom resource."""
    group, version = obj["apiVersion"].split("/")
    return ROOT / f"tests/deploy/schemas/{group}/{obj['kind'].lower()}_{version}.json"


@cache
def validator(schema: Path) -> jsonschema.Draft202012Validator:
    """Return the validator of a schema, made once for all objects of its kind."""
    return jsonschema.Draft202012Validator(json.loads(schema.read_text()))


def test_custom_resources_match_their_schema(rendered: dict[str, Path]) -> None:
    """The custom resources, and the Gateway in the documentation, are valid and have no unknown fields."""
    objects = [obj for file in rendered.values() for obj in yaml.load_all(file.read_text(), Loader=yaml.CSafeLoader)]
    objects += [yaml.safe_load(text) for title, text in KUBERNETES_PAGE.examples("yaml") if title == "The edge"]
    custom = [obj for obj in objects if obj["apiVersion"] not in KUBERNETES_APIS]
    for obj in custom:
        validator(schema_of(obj)).validate(obj)
    assert {schema_of(obj) for obj in custom} == set(ROOT.glob("tests/deploy/schemas/*/*.json"))


def test_manifest_of_the_recipe_matches_its_schema(tmp_path: Path) -> None:
    """The CronJob of docs/recipes.md is valid, and has no unknown fields."""
    ((_, manifest),) = Document("docs/recipes.md").examples("yaml")
    file = tmp_path / "cronjob.yaml"
    file.write_text(manifest)
    run(BIN / "kubernetes-validate", "--strict", "-k", "1.34", file)


@pytest.mark.checkov
@pytest.mark.parametrize("folder", [*FOLDERS, *ALL_COMPONENTS])
def test_checkov_accepts_the_manifests(rendered: dict[str, Path], folder: str) -> None:
    """Only checks of `SKIPPED_CHECKS` would fail; with images by digest and without stores, only the first."""
    skipped = list(SKIPPED_CHECKS)[:1] if folder in PINNED else [*SKIPPED_CHECKS]
    checkov("kubernetes", rendered[folder], [*skipped, ONLY_THE_BASE] if folder == "base" else skipped)


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
