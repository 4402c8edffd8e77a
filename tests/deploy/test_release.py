"""deploy/release.sh in a copy of the repository with a tag. What needs a registry is replaced by a recorder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from dev.environment import ROOT
from headway import __version__
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.release

DOCKERFILE = (ROOT / "Dockerfile").read_text()
(DEFAULT_BASE,) = re.findall(r"^ARG PYTHON_IMAGE=(.*)$", DOCKERFILE, re.MULTILINE)
PYTHON = ROOT / ".venv-release/bin/python"
SOURCES = (
    "headway",
    "services",
    "clients/browser",
    "deploy/release.sh",
    "requirements.lock",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "Dockerfile",
    ".gitignore",
)
IMAGE = "registry.example.org/headway"
BASE_DIGEST, IMAGE_DIGEST = f"sha256:{'b' * 64}", f"sha256:{'1' * 64}"
# Records its arguments. As docker it prints the base's digest, and writes that of the image where the script wants it.
RECORDER = f"""#!/bin/sh
printf '%s' "$(basename "$0")" >> "$RECORD"
for argument; do printf '\\t%s' "$argument" >> "$RECORD"; done
echo >> "$RECORD"
case "$*" in
    *"imagetools inspect --format {{{{json .Manifest.Digest}}}} "*) echo "\\"$BASE_DIGEST\\"" ;;
    *"buildx build"*) printf '{{\\n  "containerimage.digest": "{IMAGE_DIGEST}"\\n}}\\n' > dist/image.json ;;
esac
"""


class Checkout:
    """A clean checkout whose commit has the tag of the version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.programs = folder / "programs"
        self.record = folder / "record"
        ignored = shutil.ignore_patterns("__pycache__", "node_modules")
        for name in SOURCES:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_tree = (ROOT / name).is_dir()
            shutil.copytree(ROOT / name, target, ignore=ignored) if copy_tree else shutil.copy2(ROOT / name, target)
        changelog = self.folder / "CHANGELOG.md"
        changelog.write_text(f"## [{__version__}] - 2026-01-01\n\n{changelog.read_text()}")
        self.programs.mkdir()
        for name in ("docker", "cosign"):
            (self.programs / name).write_text(RECORDER)
            (self.programs / name).chmod(0o755)
        self.git("init", "--quiet")
        self.commit()
        self.git("tag", f"v{__version__}")

    def git(self, *arguments: str) -> str:
        """Run git in the checkout, without the user's configuration; return its output."""
        identity = {
            f"GIT_{role}_{part}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")
        }
        env = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull}
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, check=True
        ).stdout.strip()

    def commit(self) -> None:
        """Commit all files."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=Release")

    def release(self, *arguments: str, base_digest: str = BASE_DIGEST) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        self.record.write_text("")
        path = os.pathsep.join([str(self.programs), os.environ["PATH"]])
        env = {
            **os.environ,
            "PATH": path,
            "PYTHON": str(PYTHON),
            "RECORD": str(self.record),
            "BASE_DIGEST": base_digest,
        }
        command = ["bash", "deploy/release.sh", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def recorded(self) -> list[list[str]]:
        """Return the commands that were recorded in the last run."""
        return [line.split("\t") for line in self.record.read_text().splitlines()]

    def file(self, name: str) -> Path:
        """Return a file of the release."""
        return self.folder / "dist" / name


class DryRun(NamedTuple):
    """A dry run: what it has printed, and the contents of its files by name."""

    output: str
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Return a checkout in which no test changes a file."""
    return Checkout(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def dry_run(tagged: Checkout) -> DryRun:
    """Return what a dry run has printed, and its files."""
    completed = tagged.release("--dry-run", IMAGE)
    assert (completed.returncode, tagged.recorded()) == (0, []), completed.stderr
    return DryRun(completed.stdout, {path.name: path.read_bytes() for path in tagged.file("").iterdir()})


def test_dry_run_makes_the_files_and_publishes_nothing(dry_run: DryRun) -> None:
    """The packages, the bill of materials and the checksums are there; the other commands are printed."""
    lines = [line.split() for line in dry_run.files["SHA256SUMS"].decode().splitlines()]
    checksums = {name: checksum for checksum, name in lines}
    wheel = f"headway-{__version__}-py3-none-any.whl"
    assert checksums.keys() == {wheel, f"headway-{__version__}.tar.gz", "headway.cdx.json"}
    assert checksums == {name: hashlib.sha256(dry_run.files[name]).hexdigest() for name in checksums}
    assert "headway/services/notifier/app.py" in zipfile.ZipFile(io.BytesIO(dry_run.files[wheel])).namelist()
    printed = [line.split()[:2] for line in dry_run.output.splitlines() if line.startswith(("docker", "cosign"))]
    assert printed == [["docker", "buildx"], ["cosign", "sign"], ["cosign", "attest"], ["cosign", "sign-blob"]]


def test_bill_of_materials_has_the_locked_packages(dry_run: DryRun) -> None:
    """It has exactly the packages in the lock of the image, with their hashes, and the version of the release."""
    bill = json.loads(dry_run.files["headway.cdx.json"])
    lock = (ROOT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", lock, re.MULTILINE))
    assert {component["name"]: component["version"] for component in bill["components"]} == locked
    assert all(component["externalReferences"][0]["hashes"] for component in bill["components"])
    released = bill["metadata"]["component"]
    assert (bill["bomFormat"], released["name"], released["version"]) == ("CycloneDX", "headway", __version__)


def test_files_are_reproducible(dry_run: DryRun, tagged: Checkout) -> None:
    """The same commit gives the same files."""
    assert tagged.release("--dry-run", IMAGE).returncode == 0
    assert {path.name: path.read_bytes() for path in tagged.file("").iterdir()} == dry_run.files


def test_image_is_pinned_labelled_and_signed(tagged: Checkout) -> None:
    """The base is pinned by its digest, which the labels name; what is signed is the digest of the built image."""
    completed = tagged.release(IMAGE)
    assert completed.returncode == 0, completed.stderr
    inspect, build, *signatures = tagged.recorded()
    base = inspect[-1]
    assert base == f"docker.io/library/{DEFAULT_BASE}"
    assert {
        "--platform",
        "linux/amd64,linux/arm64",
        "--push",
        "--sbom=true",
        "--provenance=mode=max",
        f"PYTHON_IMAGE={base}@{BASE_DIGEST}",
        f"VERSION={__version__}",
        f"REVISION={tagged.git('rev-parse', 'HEAD')}",
        f"org.opencontainers.image.base.name={base}",
        f"org.opencontainers.image.base.digest={BASE_DIGEST}",
        f"{IMAGE}:{__version__}",
    } <= set(build)
    (created,) = [argument.partition("=")[2] for argument in build if argument.startswith("CREATED=")]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", created)
    arguments = {value.partition("=")[0] for option, value in pairwise(build) if option == "--build-arg"}
    assert arguments <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    assert [command[:2] for command in signatures] == [
        ["cosign", "sign"],
        ["cosign", "attest"],
        ["cosign", "sign-blob"],
    ]
    assert signatures[0][-1] == signatures[1][-1] == f"{IMAGE}@{IMAGE_DIGEST}"
    assert completed.stdout.splitlines()[-1] == f"{IMAGE}:{__version__}@{IMAGE_DIGEST}"


def test_base_without_a_digest_is_not_built(tagged: Checkout) -> None:
    """If the registry gives something else, the release stops before it builds."""
    completed = tagged.release(IMAGE, base_digest="<nil>")
    assert completed.returncode == 1
    assert completed.stderr.splitlines()[-1].startswith("release: no digest from: docker buildx imagetools inspect")
    assert [command[:3] for command in tagged.recorded()] == [["docker", "buildx", "imagetools"]]


@pytest.mark.parametrize("flaw", ["changed file", "no tag", "no changelog", "no image"])
def test_unsuitable_checkout_is_refused(tmp_path: Path, flaw: str) -> None:
    """Only what a tag names is released, with an entry in the changelog; nothing is built otherwise."""
    checkout = Checkout(tmp_path)
    if flaw == "changed file":
        (checkout.folder / "headway/new.py").touch()
    elif flaw == "no tag":
        checkout.git("tag", "--delete", f"v{__version__}")
    elif flaw == "no changelog":
        (checkout.folder / "CHANGELOG.md").write_text("## [Unreleased]\n")
        checkout.commit()
        checkout.git("tag", "--force", f"v{__version__}")
    reasons = {
        "changed file": "the checkout has changes",
        "no tag": f"HEAD does not have the tag v{__version__}",
        "no changelog": f"CHANGELOG.md has no section with a date for {__version__}",
        "no image": "usage: deploy/release.sh [--dry-run] IMAGE",
    }
    completed = checkout.release(*([] if flaw == "no image" else [IMAGE]))
    assert (completed.returncode, completed.stderr) == (1, f"release: {reasons[flaw]}\n")
    assert checkout.recorded() == []
    assert not checkout.file("").exists()
