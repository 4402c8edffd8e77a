"""The applications in examples/ are the ones that the documentation shows, and their settings are valid."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import PORTS, ROOT
from services.notifier.settings import NotifierSettings
from services.runtime.settings import Settings, load
from services.submitter.settings import SubmitterSettings
from services.worker.settings import WorkerSettings
from tests.documents import Document

EXAMPLES = ROOT / "examples"
APP_ENV = dict(line.split("=", 1) for line in (EXAMPLES / "app/.env").read_text().splitlines())
STORES = yaml.safe_load((EXAMPLES / "app/compose.yaml").read_text())["services"]

GET_STARTED, ADD_TO_YOUR_APP = Document("docs/get-started.md"), Document("docs/add-to-your-app.md")
# The blocks of a page that are files of an example, in their order.
FILES = [
    (GET_STARTED, ("python",), ("app/jobs.py",)),
    (GET_STARTED, ("ini",), ("app/.env",)),
    (
        ADD_TO_YOUR_APP,
        ("python", "html"),
        (
            "app/app.py",
            "app/index.html",
            "django/mailings/models.py",
            "django/mailings/jobs.py",
            "django/mailings/views.py",
            "django/mailings/management/commands/submit_mailings.py",
            "django/mailings/templates/mailings/home.html",
            "django/worker.py",
        ),
    ),
]


@pytest.mark.parametrize(("document", "languages", "paths"), FILES)
def test_documents_show_the_files(document: Document, languages: tuple[str, ...], paths: tuple[str, ...]) -> None:
    """Each block is the whole file."""
    blocks = [text for _, text in document.examples(*languages)][: len(paths)]
    assert dict(zip(paths, blocks, strict=True)) == {path: (EXAMPLES / path).read_text() for path in paths}


@pytest.mark.parametrize("settings", [SubmitterSettings, NotifierSettings, WorkerSettings])
def test_the_settings_of_the_app_are_valid(settings: type[Settings]) -> None:
    """Each service accepts the settings of the file `.env`, and has its own ports."""
    loaded = load(settings, APP_ENV)
    assert loaded.bind_host == "127.0.0.1"
    ports = [value for name, value in APP_ENV.items() if name.endswith("PORT")]
    assert len(ports) == len(set(ports)) == 3


def test_the_stores_listen_where_the_settings_say() -> None:
    """The containers publish Azurite's own port and the port in `REDIS_URL`, on the loopback interface only.

    `make stores` uses the same ports.
    """
    assert APP_ENV["QUEUE_CONNECTION_STRING"] == "UseDevelopmentStorage=true"
    assert STORES["azurite"]["ports"] == ["127.0.0.1:10001:10001"]
    assert STORES["valkey"]["ports"] == [f"{APP_ENV['REDIS_URL'].removeprefix('redis://')}:6379"]
    assert (PORTS["AZURITE_PORT"], PORTS["VALKEY_PORT"]) == ("10001", APP_ENV["REDIS_URL"].rpartition(":")[2])


def test_the_stores_are_those_of_the_repository() -> None:
    """Azurite has the version of compose.yaml; Valkey writes an append-only file and evicts no keys."""
    system = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert STORES["azurite"]["image"] == system["azurite"]["image"]
    assert STORES["azurite"]["command"] == system["azurite"]["command"]
    assert "--appendonly yes --maxmemory-policy noeviction" in STORES["valkey"]["command"]


@pytest.mark.parametrize("command", ["test", "makemigrations --check"])
def test_the_django_app(command: str) -> None:
    """Its tests pass, and its models have not changed since its migration."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SUBMITTER_URL": "http://127.0.0.1:9"}
    arguments = [sys.executable, "-W", "error", "manage.py", *command.split()]
    done = subprocess.run(arguments, cwd=EXAMPLES / "django", env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
