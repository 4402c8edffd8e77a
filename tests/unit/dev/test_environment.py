"""What `make up` runs the services with, and what it says when it cannot."""

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


def test_the_services_start_with_what_they_are_given(tmp_path: Path) -> None:
    """Nothing that a service needs is missing, and every service finds the others."""
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
    assert {one.bind_host for one in (submitter, notifier, worker)} == {"127.0.0.1"}
    assert worker.report_key_file == notifier.report_key_file == tmp_path / "keys/report.key"


def test_every_setting_of_the_user_wins(tmp_path: Path) -> None:
    """Whatever is set in the environment is what the services get."""
    given = {name: f"given-{name}" for name in service_environment(tmp_path, {})}
    told = service_environment(tmp_path, given)
    assert told.pop("ALLOWED_ORIGINS").endswith(f",{given.pop('ALLOWED_ORIGINS')}")  # besides the system's own pages
    assert told == given


def test_another_port_is_another_port_everywhere(tmp_path: Path) -> None:
    """Addresses follow the ports that they name."""
    given = {name: str(20_000 + number) for number, name in enumerate(PORTS)}
    env = service_environment(tmp_path, given)
    assert not [value for value in env.values() if any(f":{old}" in value for old in PORTS.values())]
    assert env["NOTIFIER_INTERNAL_URL"].endswith(given["NOTIFIER_INTERNAL_PORT"])
    assert env["REDIS_URL"] == f"redis://127.0.0.1:{given['VALKEY_PORT']}/0"


def test_with_api_keys_the_submitter_is_not_open(tmp_path: Path) -> None:
    """Keys are set by one variable, and the default gives way."""
    env = service_environment(tmp_path, {"SUBMITTER_API_KEYS": "/keys/api"})
    assert load(SubmitterSettings, {**env, "SUBMITTER_API_KEYS": "/keys/api"}).submitter_open is False


def test_the_state_folder_is_the_repository_s_unless_another_is_named(tmp_path: Path) -> None:
    """`HEADWAY_DIR` moves everything that a run leaves behind."""
    assert state_dir({}) == ROOT / ".headway"
    assert state_dir({"HEADWAY_DIR": str(tmp_path / "a/../b")}) == tmp_path / "b"


def test_free_ports_are_taken_without_complaint(tmp_path: Path) -> None:
    """A check leaves no port behind: it can be made twice."""
    given = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    for _ in range(2):
        check_ports(service_environment(tmp_path, given))


def test_every_port_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    """A taken port, one that is none and one used twice are told at once, with what to set."""
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        given = {**ports, "NOTIFIER_PORT": number, "AZURITE_PORT": "x"}
        given["VALKEY_PORT"] = given["SUBMITTER_PORT"]
        with pytest.raises(SetupError) as refused:
            check_ports(service_environment(tmp_path, given))
    told = str(refused.value).splitlines()
    assert len(told) == 3
    assert f"port {number} (notifier) is taken" in told[0]
    assert told[0].endswith("set NOTIFIER_PORT")
    assert told[1] == "AZURITE_PORT=x is no port"
    assert "(valkey) is taken" in told[2]


def test_a_state_folder_is_one_run_s_alone(tmp_path: Path) -> None:
    """Two runs would share pids, stores and keys; once the first has ended, the next may have the folder."""
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
