"""The commands of docs/disaster.md replace keys, in a folder like that of its reader."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from dev.environment import ROOT
from headway.tokens import TokenSigner, make_keys
from services.runtime.settings import read_keys
from tests.deploy.manifests import SERVICES
from tests.deploy.recorded_commands import of_program, run_commands
from tests.documents import Document


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
