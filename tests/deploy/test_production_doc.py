"""The commands of docs/run-in-production.md agree with compose.yaml and the Dockerfile."""

from __future__ import annotations

import re

import msgspec
import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from headway.cli.command import _parser
from tests.deploy.manifests import COMPOSE, SERVICES
from tests.deploy.recorded_commands import of_program, options, run_commands
from tests.documents import Document

PAGE = Document("docs/run-in-production.md")


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Return the recorded commands of the page, which ran in a folder with the repository's files."""
    folder = tmp_path_factory.mktemp("production")
    for name in ("deploy", "Dockerfile", "compose.yaml"):
        (folder / name).symlink_to(ROOT / name)
    return run_commands(PAGE, folder)


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


def test_override_names_services_and_settings() -> None:
    """The services of the override are in compose.yaml, and their variables are settings."""
    (override,) = [text for title, text in PAGE.examples("yaml") if title == "On one machine"]
    for name, service in yaml.safe_load(override)["services"].items():
        assert service["deploy"].keys() == COMPOSE[name]["deploy"].keys()
        settings = {field.name.upper() for field in msgspec.structs.fields(SERVICES[name])}
        assert service["environment"].keys() <= settings


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


def test_commands_in_containers_are_valid(commands: list[list[str]]) -> None:
    """The command line accepts the commands that run in the submitter's container."""
    entered = [command for command in commands if "exec" in command]
    assert {command[0] for command in entered} == {"docker", "kubectl"}
    for command in entered:
        assert {"submitter", "deployment/submitter"} & set(command)
        assert callable(_parser().parse_args(command[command.index("headway", 4) + 1 :]).run)
