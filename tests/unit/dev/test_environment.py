"""The environment of `make up`: its settings, its ports and its state folder."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dev.environment import PORTS, ROOT, SetupError, check_ports, locked_state_dir, service_environment, state_dir
from services.notifier.settings import NotifierSettings
from services.runtime.settings import load
from services.submitter.settings import SubmitterSettings
from services.worker.settings import WorkerSettings
from tests.waiting import free_ports


def test_services_load_the_environment(tmp_path: Path) -> None:
    """The environment contains every required setting, and the URLs of the services match their ports."""
    env = service_environment(tmp_path, {})
    submitter, notifier, worker = (load(kind, env) for kind in (SubmitterSettings, NotifierSettings, WorkerSettings))
    assert isinstance(submitter, SubmitterSettings)
    assert isinstance(notifier, NotifierSettings)
    assert isinstance(worker, WorkerSettings)
    ports = (submitter.port, notifier.port, submitter.internal_port, notifier.internal_port, worker.internal_port)
    assert ports == (8080, 8081, 9190, 9191, 9192)
    assert worker.notifier_internal_url == f"http://127.0.0.1:{notifier.internal_port}"
    assert submitter.live_url == f"http://127.0.0.1:{notifier.port}"
    assert submitter.queue_connection_string == worker.queue_connection_string
    assert "127.0.0.1:10001" in str(worker.queue_connection_string)
    assert str(submitter.submitter_url) in notifier.allowed_origins
    assert {settings.bind_host for settings in (submitter, notifier, worker)} == {"127.0.0.1"}
    key_files = {settings.report_key_file for settings in (submitter, notifier, worker)}
    assert key_files == {tmp_path / "keys/report.key"}
    assert submitter.submitter_open
    assert submitter.dashboard_open


def test_environment_overrides_every_default(tmp_path: Path) -> None:
    """The services get each setting of the user's environment; allowed origins are added to the default ones."""
    user_env = {name: f"value-of-{name}" for name in service_environment(tmp_path, {})}
    env = service_environment(tmp_path, user_env)
    assert env.pop("ALLOWED_ORIGINS").endswith(f",{user_env.pop('ALLOWED_ORIGINS')}")
    assert env == user_env


def test_urls_contain_the_configured_ports(tmp_path: Path) -> None:
    """When the ports are changed, no URL contains a default port."""
    ports = {name: str(20_000 + number) for number, name in enumerate(PORTS)}
    env = service_environment(tmp_path, ports)
    assert not [value for value in env.values() if any(f":{default}" in value for default in PORTS.values())]
    for name in ("NOTIFIER", "SUBMITTER"):
        assert env[f"{name}_INTERNAL_URL"].endswith(ports[f"{name}_INTERNAL_PORT"])
    assert env["REDIS_URL"] == f"redis://127.0.0.1:{ports['VALKEY_PORT']}/0"


def test_submitter_with_api_keys_is_not_open(tmp_path: Path) -> None:
    """A user who sets API keys does not have to set SUBMITTER_OPEN and DASHBOARD_OPEN as well."""
    env = service_environment(tmp_path, {"SUBMITTER_API_KEYS": "/keys/api"})
    settings = load(SubmitterSettings, {**env, "SUBMITTER_API_KEYS": "/keys/api"})
    assert not settings.submitter_open
    assert not settings.dashboard_open


def test_state_folder_is_set_by_headway_dir(tmp_path: Path) -> None:
    """The state folder is `.headway` in the repository, unless `HEADWAY_DIR` is set."""
    assert state_dir({}) == ROOT / ".headway"
    assert state_dir({"HEADWAY_DIR": str(tmp_path / "a/../b")}) == tmp_path / "b"


def test_check_accepts_free_ports(tmp_path: Path) -> None:
    """The check closes the ports that it has opened, so a second check succeeds too."""
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    for _ in range(2):
        check_ports(service_environment(tmp_path, ports))


def test_check_lists_every_unavailable_port(tmp_path: Path) -> None:
    """One error lists a port in use, an invalid port and a port that is set twice, each with its setting."""
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    with socket.create_server(("127.0.0.1", 0)) as server:
        used_port = str(server.getsockname()[1])
        ports |= {"NOTIFIER_PORT": used_port, "AZURITE_PORT": "x", "VALKEY_PORT": ports["SUBMITTER_PORT"]}
        with pytest.raises(SetupError) as error:
            check_ports(service_environment(tmp_path, ports))
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert f"port {used_port} (notifier) is in use" in lines[0]
    assert lines[0].endswith("set NOTIFIER_PORT")
    assert lines[1] == "AZURITE_PORT=x is not a port"
    assert "(valkey) is in use" in lines[2]


def test_state_folder_is_locked_for_one_run(tmp_path: Path) -> None:
    """A second run at the same time gets an error; a later one keeps the keys and removes old process IDs."""
    with locked_state_dir(tmp_path, {"A": "1", "B": "x=y"}):
        assert (tmp_path / "env").read_text() == "A=1\nB=x=y\n"
        with pytest.raises(SetupError, match="set HEADWAY_DIR"), locked_state_dir(tmp_path, {"A": "2"}):
            pass
        assert (tmp_path / "env").read_text() == "A=1\nB=x=y\n"
    key = (tmp_path / "keys/report.key").read_text()
    (tmp_path / "pid/worker").write_text("1\n")
    with locked_state_dir(tmp_path, {"A": "2"}):
        assert (tmp_path / "keys/report.key").read_text() == key
        assert list((tmp_path / "pid").iterdir()) == []
