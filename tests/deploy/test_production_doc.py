"""The commands and manifests of docs/run-in-production.md, as far as they can be checked without a cluster.

The commands run in a shell. Programs that would change the machine or a cluster are replaced by one that records its
arguments; the test then compares these with compose.yaml, the Dockerfile and the manifests.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from headway.cli.command import _parser
from tests.deploy.manifests import COMPOSE, objects_of_kind, render, write_overlay
from tests.documents import Document
from tests.waiting import PATIENCE_S

PAGE = Document("docs/run-in-production.md")
RECORDED = ("docker", "kind", "kubectl")
RECORDER = """#!/bin/sh
printf ' %s' "$(basename "$0")" >> "$COMMANDS"
for argument; do printf " '%s'" "$argument" >> "$COMMANDS"; done
echo >> "$COMMANDS"
"""
NAMESPACE = "headway"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the repository's manifests, and with an overlay as the page's reader copies it."""
    folder = tmp_path_factory.mktemp("production")
    for name in ("deploy", "Dockerfile", "compose.yaml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "my-overlay").symlink_to(ROOT / "deploy/k8s/overlays/production")
    programs = folder / "programs"
    programs.mkdir()
    for name in RECORDED:
        (programs / name).write_text(RECORDER)
        (programs / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def commands(folder: Path) -> list[list[str]]:
    """Run all commands of the page, in their order; return those that were recorded."""
    script = "\n".join(["set -eu", *(example.text for example in PAGE.examples("sh")), "wait"])
    path = os.pathsep.join([str(folder / "programs"), str(Path(sys.executable).parent), os.environ["PATH"]])
    stores = {"CONNECTION_STRING": "UseDevelopmentStorage=true", "REDIS_URL": "redis://redis"}
    env = {**os.environ, **stores, "PATH": path, "COMMANDS": str(folder / "commands"), "GIT_DIR": str(ROOT / ".git")}
    completed = subprocess.run(
        ["sh", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    return [shlex.split(line) for line in (folder / "commands").read_text().splitlines()]


def options(arguments: list[str], name: str) -> list[str]:
    """Return the values of an option, written `--name value` or `--name=value`."""
    joined = " ".join(arguments)
    return re.findall(rf"--{name}[ =](\S+)", joined)


def of_program(commands: list[list[str]], *start: str) -> list[list[str]]:
    """Return the arguments of the commands that begin with these words, without them."""
    found = [command[len(start) :] for command in commands if command[: len(start)] == list(start)]
    assert found, f"the page has no command {' '.join(start)}"
    return found


def test_compose_commands_name_services_and_profiles(commands: list[list[str]]) -> None:
    """Services that are scaled, restarted or entered, and profiles, are in compose.yaml."""
    profiles = {profile for service in COMPOSE.values() for profile in service.get("profiles", [])}
    for arguments in of_program(commands, "docker", "compose"):
        assert set(options(arguments, "profile")) <= profiles
        services = [replicas.partition("=")[0] for replicas in options(arguments, "scale")]
        if arguments[0] in ("restart", "exec"):
            services.append(arguments[1])
        assert set(services) <= COMPOSE.keys()


def test_compose_commands_keep_the_replicas(commands: list[list[str]]) -> None:
    """Every `up` starts at least as many replicas as the one before it: compose.yaml has their numbers."""
    running: dict[str, int] = {}
    for arguments in of_program(commands, "docker", "compose"):
        if "up" in arguments:
            scaled = dict(replicas.split("=") for replicas in options(arguments, "scale"))
            for service, container in COMPOSE.items():
                count = int(scaled.get(service, container.get("deploy", {}).get("replicas", 1)))
                assert count >= running.get(service, 1), (service, arguments)
                running[service] = count
    assert (running["notifier"], running["worker"]) == (5, 3)


def test_image_is_built_with_declared_arguments(commands: list[list[str]]) -> None:
    """The Dockerfile declares each argument of a build, and the revision is a commit."""
    declared = set(re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    build_arguments = [
        argument.partition("=")
        for arguments in of_program(commands, "docker", "build")
        for argument in options(arguments, "build-arg")
    ]
    assert {name for name, _, _ in build_arguments} == {"VERSION", "REVISION"} <= declared
    assert re.fullmatch("[0-9a-f]{40}", {name: value for name, _, value in build_arguments}["REVISION"])


def test_applied_files_exist(commands: list[list[str]], folder: Path) -> None:
    """The manifests that are applied exist, and so do the files of the Secrets when they are created."""
    for arguments in of_program(commands, "kubectl", "apply"):
        for kustomization in options(arguments, "kustomize"):
            assert (folder / kustomization / "kustomization.yaml").exists()
        for file in options(arguments, "filename"):
            assert (folder / file).exists()
    files = [file for command in commands if "create" in command for file in options(command, "from-file")]
    assert len(files) == 9
    for file in files:
        assert (folder / file).stat().st_size > 0


def test_manifests_are_applied_in_one_way(commands: list[list[str]]) -> None:
    """A mixture of client-side and server-side apply would stop with conflicts, so all commands apply on the server."""
    for arguments in of_program(commands, "kubectl", "apply"):
        assert "--server-side" in arguments
        assert ("--force-conflicts" in arguments) != bool(options(arguments, "field-manager"))
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md"), ROOT / "Makefile"]
    for document in documents:
        for line in re.findall(r"kubectl apply .*", document.read_text()):
            assert "--server-side" in line or document.name == "CHANGELOG.md", line


def test_autoscaler_gets_the_replicas_before_they_are_removed(commands: list[list[str]]) -> None:
    """Another field manager owns the number when the overlay without it is applied; otherwise Kubernetes sets 1."""
    shell = "\n".join(text for heading, text in PAGE.examples("sh") if heading == "Scale")
    (document,) = re.findall(r"<<END\n(.*?)\nEND", shell)
    handed_over = yaml.safe_load(document.replace("$replicas", "5"))
    assert handed_over == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "worker"},
        "spec": {"replicas": 5},
    }
    applied = of_program(commands, "kubectl", "apply")
    (handover,) = [number for number, arguments in enumerate(applied) if options(arguments, "field-manager")]
    assert options(applied[handover], "namespace") == [NAMESPACE]
    assert options(applied[handover + 1], "kustomize") == ["my-overlay"]


def test_cluster_commands_name_objects(commands: list[list[str]]) -> None:
    """Services and Deployments that commands name are in the manifests, and services have the forwarded port."""
    objects = render("overlays/dev")
    (namespace,) = objects_of_kind(objects, "Namespace")
    assert {name for command in commands for name in options(command, "namespace")} == {namespace}
    named = of_program(commands, "kubectl", "--namespace", namespace)
    services, deployments = objects_of_kind(objects, "Service"), objects_of_kind(objects, "Deployment")
    for arguments in named:
        match arguments:
            case ["port-forward", target, ports]:
                service_ports = [port["port"] for port in services[target.removeprefix("service/")]["spec"]["ports"]]
                assert int(ports.partition(":")[2]) in service_ports
            case ["exec", target, *_]:
                assert target.removeprefix("deployment/") in deployments
            case ["wait", *_] | ["rollout", "restart", "deployment"]:
                assert "deployment" in arguments
            case _:
                assert arguments[:3] == ["create", "secret", "generic"]


def test_commands_in_containers_are_valid(commands: list[list[str]]) -> None:
    """The command line accepts the commands that run in the submitter's container."""
    entered = [command[command.index("headway", 4) + 1 :] for command in commands if "exec" in command]
    assert len(entered) == 2
    for arguments in entered:
        assert callable(_parser().parse_args(arguments).run)


@pytest.mark.parametrize("heading", ["On Kubernetes", "Scale"])
def test_overlay_changes_the_deployments(heading: str, tmp_path: Path) -> None:
    """With the page's lines in an overlay, workers run another image, and replicas are set or left to an autoscaler."""
    (lines,) = [text for title, text in PAGE.examples("yaml") if title == heading]
    folder = write_overlay(tmp_path, lines.replace("sha256:…", f"sha256:{'0' * 64}"))
    specs = {name: obj["spec"] for name, obj in objects_of_kind(render(folder), "Deployment").items()}
    if heading == "Scale":
        assert specs["notifier"]["replicas"] == 5
        assert "replicas" not in specs["worker"]
        assert "replicas" in specs["submitter"]
    else:
        (container,) = specs["worker"]["template"]["spec"]["containers"]
        assert container["image"].startswith("registry.example.org/own-jobs@")
        assert {"name": "WORKER_JOBS", "value": "measuring"} in container["env"]
