"""The commands of docs/disaster.md and docs/kubernetes.md replace keys, in a folder like that of their reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from dev.environment import ROOT
from headway.tokens import TokenSigner, TokenVerifier, make_keys
from services.runtime.settings import read_keys
from tests.deploy.manifests import SERVICES
from tests.deploy.recorded_commands import of_program, run_commands
from tests.documents import Document
from tests.waiting import PATIENCE_S


class Replaced(NamedTuple):
    """The folder of keys before and after all commands, and the commands that were recorded."""

    before: dict[str, str]
    keys: Path
    commands: list[list[str]]


@pytest.fixture(scope="module")
def replaced(tmp_path_factory: pytest.TempPathFactory) -> Replaced:
    """Run all commands of the page."""
    folder = tmp_path_factory.mktemp("disaster")
    (folder / "deploy").symlink_to(ROOT / "deploy")
    make_keys(folder / "keys")
    before = {path.name: path.read_text() for path in (folder / "keys").iterdir()}
    return Replaced(before, folder / "keys", run_commands(Document("docs/disaster.md"), folder))


def test_token_keys_are_replaced(replaced: Replaced) -> None:
    """Both halves are new and belong together, so that no older token is valid."""
    private, public = ((replaced.keys / name).read_text() for name in ("token.pem", "token.pub.pem"))
    assert TokenSigner(private).public_pem == public
    assert public != replaced.before["token.pub.pem"]


def test_report_key_is_rotated(replaced: Replaced) -> None:
    """The new key is used from the first step on; after the last one, it is the only one, and others cannot read it."""
    file = replaced.keys / "report.key"
    (key,) = read_keys(file.read_text())
    assert key not in replaced.before["report.key"]
    assert file.stat().st_mode & 0o077 == 0


def test_every_step_updates_the_secrets_of_all_services(replaced: Replaced) -> None:
    """Each of the three steps writes three Secrets."""
    names = [arguments[0] for arguments in of_program(replaced.commands, "kubectl", "create", "secret", "generic")]
    assert names == 3 * list(SERVICES)


def test_keys_are_rotated_without_an_interruption(tmp_path: Path) -> None:
    """Pods that have a step's files and pods that have those of the step before accept what either of them sends."""
    page = Document("docs/kubernetes.md")
    ((_, first),) = [example for example in page.examples("sh") if example.heading == "Rotate keys"]
    make_keys(tmp_path / "keys")
    run_in(tmp_path, first)
    old = accepted, sent = accepted_and_sent(tmp_path / "keys")
    for _step, *commands in page.table("Rotate keys"):
        accepted_before, sent_before = accepted, sent
        for command in commands:
            run_in(tmp_path, command.strip("`"))
        accepted, sent = accepted_and_sent(tmp_path / "keys")
        assert sent_before | sent <= accepted_before & accepted
    assert (accepted, sent) == accepted_and_sent(tmp_path / "new-keys")
    assert accepted.isdisjoint(old[0])


def run_in(folder: Path, command: str) -> None:
    """Run a command of the shell in a folder, with the command `headway`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(
        ["sh", "-euc", command], cwd=folder, env={**os.environ, "PATH": path}, check=True, timeout=PATIENCE_S
    )


def accepted_and_sent(keys: Path) -> tuple[set[str], set[str]]:
    """Return the keys in a folder that are accepted, and those that are used to sign or to send."""
    reports = read_keys((keys / "report.key").read_text())
    signing = TokenVerifier(TokenSigner((keys / "token.pem").read_text()).public_pem).key_ids
    verifying = TokenVerifier((keys / "token.pub.pem").read_text()).key_ids
    return {*verifying, *reports}, {*signing, reports[0]}
