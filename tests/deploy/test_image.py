"""The Dockerfile: its base, its labels and its context."""

from __future__ import annotations

import re
import tomllib

from dev.environment import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LABELS = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', DOCKERFILE))


def test_all_stages_have_one_base() -> None:
    """An argument names the base of every stage, so that a release can pin one digest; its default has a version."""
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    (default,) = re.findall(r"^ARG PYTHON_IMAGE=(.*)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", default)


def test_labels_describe_the_image() -> None:
    """The labels are those of the OCI that do not depend on the base, and they agree with pyproject.toml."""
    (author,) = PROJECT["authors"]
    expected = {
        "title": "Headway",
        "description": PROJECT["description"],
        "licenses": PROJECT["license"],
        "authors": author["name"],
        "url": PROJECT["urls"]["Homepage"],
        "source": PROJECT["urls"]["Homepage"],
        "documentation": PROJECT["urls"]["Documentation"],
        "version": "${VERSION}",
        "revision": "${REVISION}",
        "created": "${CREATED}",
    }
    assert expected == LABELS
    arguments = set(re.findall(r"^ARG (\w+)=", DOCKERFILE, re.MULTILINE))
    assert {"VERSION", "REVISION", "CREATED"} <= arguments


def test_context_is_an_allow_list() -> None:
    """The build sees only what the image is made of; each of these files is copied, and exists."""
    first, *lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        source
        for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for source in sources.split()
    }
    assert first == "*"
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)


def test_every_installation_is_checked_by_hashes() -> None:
    """Packages come from a lock whose every line has hashes, and nothing else is downloaded."""
    installs = [line for line in DOCKERFILE.replace("\\\n", "").splitlines() if re.search(r"\bpip install\b", line)]
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-deps dist/*.whl" in line for line in installs)
    assert not re.search(r"\b(curl|wget|apt-get|ADD)\b", DOCKERFILE)
    for name in ("requirements.lock", "requirements-build.lock"):
        requirements = re.split(r"\n(?=[a-zA-Z])", (ROOT / name).read_text().strip())
        assert all("--hash=sha256:" in requirement for requirement in requirements)


def test_old_engines_can_build_it() -> None:
    """No syntax image is pulled, and health checks are in compose.yaml, where their options work everywhere."""
    assert not re.search(r"^# *syntax=|^HEALTHCHECK|<<", DOCKERFILE, re.MULTILINE)
