"""Settings from the environment, and key files that change."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.notifier.settings import NotifierSettings
from services.runtime.settings import ReloadingFile, Secret, SettingsError, load, read_keys
from services.submitter.settings import SubmitterSettings
from services.worker.settings import WorkerSettings

CONNECTION = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=c2VjcmV0;"
WORKER = {
    "NOTIFIER_INTERNAL_URL": "http://notifier:9090",
    "REPORT_KEY_FILE": "/keys/report.key",
    "QUEUE_CONNECTION_STRING": CONNECTION,
}
SUBMITTER = {
    "SUBMITTER_URL": "https://jobs.example/",
    "LIVE_URL": "https://live.example",
    "TOKEN_KEY_FILE": "/keys/token.pem",
    "QUEUE_CONNECTION_STRING": CONNECTION,
    "SUBMITTER_OPEN": "true",
}


def problems(kind: type[SubmitterSettings | WorkerSettings | NotifierSettings], env: dict[str, str]) -> list[str]:
    """Return what is wrong with an environment."""
    with pytest.raises(SettingsError) as refused:
        load(kind, env)
    return str(refused.value).splitlines()


def test_settings_come_from_the_environment() -> None:
    """Every type is converted, and what is not set has its default."""
    settings = load(WorkerSettings, {**WORKER, "WORKER_CONCURRENCY": " 3 ", "HEARTBEAT_S": "0.5", "LOG_LEVEL": "debug"})
    assert (settings.worker_concurrency, settings.heartbeat_s, settings.log_level) == (3, 0.5, "debug")
    assert (settings.report_key_file, settings.queue_name) == (Path("/keys/report.key"), "jobs")
    assert settings.queue_connection_string == CONNECTION


def test_all_problems_are_told_at_once() -> None:
    """Whoever sets up a service does not find one mistake after the other."""
    env = {
        "WORKER_CONCURRENCY": "0",
        "LEASE_S": "long",
        "LOG_LEVEL": "loud",
        "INTERNAL_PORT": "70000",
        "HEARTBEAT_S": "-1",
    }
    told = problems(WorkerSettings, env)
    names = ["NOTIFIER_INTERNAL_URL", "REPORT_KEY_FILE", "QUEUE_CONNECTION_STRING", *env]
    assert sorted(line.split(" ")[0].rstrip(":") for line in told) == sorted(names)


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    """As orchestrators mount it; what is not secret has no file, and one that cannot be read is named."""
    file = tmp_path / "connection"
    file.write_text(f"{CONNECTION}\n")
    env = {**WORKER, "QUEUE_CONNECTION_STRING": "", "QUEUE_CONNECTION_STRING_FILE": str(file)}
    assert load(WorkerSettings, env).queue_connection_string == CONNECTION
    assert load(WorkerSettings, {**env, "WORKER_QUEUE_CONNECTION_STRING": "own"}).queue_connection_string == "own"
    assert load(WorkerSettings, {**env, "QUEUE_NAME_FILE": str(file)}).queue_name == "jobs"
    (told,) = problems(WorkerSettings, {**env, "QUEUE_CONNECTION_STRING_FILE": str(tmp_path / "nothing")})
    assert told.startswith("QUEUE_CONNECTION_STRING_FILE: ")


def test_an_empty_setting_is_none() -> None:
    """A variable that is there but empty counts as not set."""
    assert load(WorkerSettings, {**WORKER, "QUEUE_NAME": ""}).queue_name == "jobs"
    assert problems(WorkerSettings, {**WORKER, "REPORT_KEY_FILE": ""}) == ["REPORT_KEY_FILE is missing"]


def test_a_service_s_own_setting_wins() -> None:
    """With the service's name in front a setting is that service's alone."""
    env = {**WORKER, "LOG_LEVEL": "error", "WORKER_LOG_LEVEL": "debug", "NOTIFIER_LOG_LEVEL": "info"}
    assert load(WorkerSettings, env).log_level == "debug"
    assert load(SubmitterSettings, {**env, **SUBMITTER}).log_level == "error"
    assert problems(WorkerSettings, {**env, "WORKER_LOG_LEVEL": "loud"})[0].startswith("WORKER_LOG_LEVEL: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [("a,b", ("a", "b")), (" a , b ,", ("a", "b")), ("a", ("a",)), (",", ())],
)
def test_lists_are_separated_by_commas(text: str, words: tuple[str, ...]) -> None:
    """Spaces and empty words do not count."""
    assert load(WorkerSettings, {**WORKER, "WORKER_JOBS": text}).worker_jobs == words


def test_secrets_do_not_show_themselves() -> None:
    """The settings can be printed; a secret is still its own text."""
    settings = load(WorkerSettings, WORKER)
    redis = load(
        NotifierSettings, {"REDIS_URL": "redis://:hunter2@redis", "REPORT_KEY_FILE": "r", "TOKEN_PUBLIC_KEY_FILE": "p"}
    )
    for shown in (repr(settings), str(settings), f"{redis}", repr(redis.redis_url)):
        assert "c2VjcmV0" not in shown
        assert "hunter2" not in shown
    assert "********" in repr(settings)
    assert isinstance(settings.queue_connection_string, Secret)
    assert settings.queue_connection_string.split(";")[1] == "AccountName=a"


def test_one_way_to_submit_must_be_chosen() -> None:
    """Anyone may submit, or those with a key: neither and both are refused."""
    assert load(SubmitterSettings, SUBMITTER).submitter_api_keys is None
    keyed = {**SUBMITTER, "SUBMITTER_OPEN": "false", "SUBMITTER_API_KEYS": "/keys/api"}
    assert load(SubmitterSettings, keyed).submitter_api_keys == Path("/keys/api")
    expected = "exactly one of SUBMITTER_OPEN and SUBMITTER_API_KEYS must be set"
    assert problems(SubmitterSettings, {**SUBMITTER, "SUBMITTER_OPEN": ""}) == [expected]
    assert problems(SubmitterSettings, {**SUBMITTER, "SUBMITTER_API_KEYS": "/keys/api"}) == [expected]


def test_the_submitter_s_own_origin_is_allowed() -> None:
    """The page may post its own form, others only when they are named."""
    settings = load(SubmitterSettings, {**SUBMITTER, "ALLOWED_ORIGINS": "https://a.example,https://b.example"})
    assert settings.origins == ("https://jobs.example", "https://a.example", "https://b.example")


def replace(path: Path, text: str) -> None:
    """Change a file as an editor or Kubernetes does: by putting another in its place."""
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.replace(path)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """A rotated key is used from the next look on, and an unchanged file is read once."""
    path = tmp_path / "keys"
    path.write_text("one\n")
    parsed: list[str] = []

    def parse(text: str) -> tuple[str, ...]:
        parsed.append(text)
        return read_keys(text)

    keys = ReloadingFile(path, parse)
    assert (keys.value, keys.value) == (("one",), ("one",))
    assert parsed == ["one\n"]
    replace(path, "two\none\n")
    assert keys.value == ("two", "one")


@pytest.mark.parametrize("bad", ["", "# nothing\n"])
def test_the_last_good_value_is_kept(tmp_path: Path, bad: str) -> None:
    """A file that is half written, empty or gone changes nothing, and is read as soon as it is good again."""
    path = tmp_path / "keys"
    path.write_text("one\n")
    keys = ReloadingFile(path, read_keys)
    replace(path, bad)
    assert keys.value == ("one",)
    path.write_bytes(b"\xff\xfe")
    assert keys.value == ("one",)
    path.unlink()
    assert keys.value == ("one",)
    replace(path, "two\n")
    assert keys.value == ("two",)


def test_a_file_that_is_bad_from_the_start_is_an_error(tmp_path: Path) -> None:
    """A service does not start without its keys."""
    with pytest.raises(SettingsError, match=r"keys: .*No such file"):
        ReloadingFile(tmp_path / "keys", read_keys)
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(SettingsError, match=r"keys: .*no key"):
        ReloadingFile(tmp_path / "keys", read_keys)


def test_a_key_file_has_a_key_a_line() -> None:
    """Comments, spaces and empty lines are no keys."""
    assert read_keys("# ours\n  one \n\r\n\ntwo") == ("one", "two")


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("https://www.example.org", "https://www.example.org"),
        ("HTTP://LOCALHOST:8501/", "http://localhost:8501"),
        ("https://example.org:443", "https://example.org"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_origins_are_spelt_as_browsers_do(told: str, meant: str) -> None:
    """So that what is allowed is found."""
    assert load(SubmitterSettings, {**SUBMITTER, "ALLOWED_ORIGINS": f"{told}, http://b"}).allowed_origins == (
        meant,
        "http://b",
    )


@pytest.mark.parametrize(
    "told", ["www.example.org", "https://", "https://a/path", "https://a?b", "ftp://a", "*", "null"]
)
def test_what_is_no_origin_is_refused(told: str) -> None:
    """It would allow nobody, and nobody would know why."""
    (problem,) = problems(SubmitterSettings, {**SUBMITTER, "ALLOWED_ORIGINS": told})
    assert problem.startswith("ALLOWED_ORIGINS: Expected an ")


def test_addresses_of_the_services_are_some() -> None:
    """Pages and links are made of them."""
    told = problems(SubmitterSettings, {**SUBMITTER, "SUBMITTER_URL": "jobs.example", "LIVE_URL": "ws://live"})
    assert {line.split(":")[0] for line in told} == {"SUBMITTER_URL", "LIVE_URL"}


def test_queue_is_entered_by_one_way() -> None:
    """Either a connection string or an account's address, over TLS alone."""
    others = {name: value for name, value in WORKER.items() if name != "QUEUE_CONNECTION_STRING"}
    both = {**WORKER, "QUEUE_ACCOUNT_URL": "https://a.queue.core.windows.net"}
    assert problems(WorkerSettings, others) == ["QUEUE_CONNECTION_STRING or QUEUE_ACCOUNT_URL: set one of them"]
    assert problems(WorkerSettings, both) == ["QUEUE_CONNECTION_STRING and QUEUE_ACCOUNT_URL: set one of them"]
    assert "https" in problems(WorkerSettings, {**others, "QUEUE_ACCOUNT_URL": "http://a.queue.core.windows.net"})[0]
    account = load(WorkerSettings, {**others, "QUEUE_ACCOUNT_URL": "https://a.queue.core.windows.net"})
    assert account.queue_account_url == "https://a.queue.core.windows.net"
