"""Settings from the environment, and key files that change."""

from __future__ import annotations

import re
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


def problems(
    settings_type: type[SubmitterSettings | WorkerSettings | NotifierSettings], env: dict[str, str]
) -> list[str]:
    """Return the problems of an environment."""
    with pytest.raises(SettingsError) as raised:
        load(settings_type, env)
    return str(raised.value).splitlines()


def test_settings_come_from_the_environment() -> None:
    """Values are converted to the types of their fields, and the others have their defaults."""
    settings = load(WorkerSettings, {**WORKER, "WORKER_CONCURRENCY": " 3 ", "HEARTBEAT_S": "0.5", "LOG_LEVEL": "debug"})
    assert (settings.worker_concurrency, settings.heartbeat_s, settings.log_level) == (3, 0.5, "debug")
    assert (settings.report_key_file, settings.queue_name) == (Path("/keys/report.key"), "jobs")
    assert settings.queue_connection_string == CONNECTION


@pytest.mark.parametrize(
    ("heartbeat_s", "lease_s", "interval_s"), [("10", "60", 10), ("10", "3", 0.75), ("1", "60", 1)]
)
def test_a_worker_reports_each_lease_in_time(heartbeat_s: str, lease_s: str, interval_s: float) -> None:
    """HEARTBEAT_S counts up to a quarter of the lease."""
    settings = load(WorkerSettings, {**WORKER, "HEARTBEAT_S": heartbeat_s, "LEASE_S": lease_s})
    assert settings.max_report_interval_s == interval_s


@pytest.mark.parametrize(
    "url",
    [
        "https://traces.example",
        "javascript:{trace_id}",
        "ftp://traces.example/{trace_id}",
        "https://{trace_id}.example/",
        "https://ann@traces.example/{trace_id}",
        "https://traces.example/ {trace_id}",
    ],
)
def test_a_url_of_traces_has_a_place_for_the_id(url: str) -> None:
    """It is one of HTTP, and only its path, query or fragment depends on the job."""
    env = {**SUBMITTER, "TRACE_URL": url}
    assert [line.partition(":")[0] for line in problems(SubmitterSettings, env)] == ["TRACE_URL"]
    for valid in ("https://traces.example/{trace_id}", 'http://localhost:3000/explore#{"query":"{trace_id}"}'):
        assert load(SubmitterSettings, {**SUBMITTER, "TRACE_URL": valid}).trace_url == valid


def test_all_problems_are_reported_at_once() -> None:
    """An operator does not have to fix one problem to see the next."""
    env = {
        "WORKER_CONCURRENCY": "0",
        "LEASE_S": "long",
        "LOG_LEVEL": "loud",
        "INTERNAL_PORT": "70000",
        "HEARTBEAT_S": "-1",
    }
    reported = problems(WorkerSettings, env)
    names = ["NOTIFIER_INTERNAL_URL", "REPORT_KEY_FILE", "QUEUE_CONNECTION_STRING", *env]
    assert sorted(line.split(" ")[0].rstrip(":") for line in reported) == sorted(names)


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    """Orchestrators mount secrets as files. Only secrets have such a variable; an unreadable file is reported."""
    file = tmp_path / "connection"
    file.write_text(f"{CONNECTION}\n")
    env = {**WORKER, "QUEUE_CONNECTION_STRING": "", "QUEUE_CONNECTION_STRING_FILE": str(file)}
    assert load(WorkerSettings, env).queue_connection_string == CONNECTION
    own = f"{CONNECTION}EndpointSuffix=own"
    assert load(WorkerSettings, {**env, "WORKER_QUEUE_CONNECTION_STRING": own}).queue_connection_string == own
    assert load(WorkerSettings, {**env, "QUEUE_NAME_FILE": str(file)}).queue_name == "jobs"
    (problem,) = problems(WorkerSettings, {**env, "QUEUE_CONNECTION_STRING_FILE": str(tmp_path / "missing")})
    assert problem.startswith("QUEUE_CONNECTION_STRING_FILE: ")


def test_an_empty_setting_counts_as_unset() -> None:
    """An empty variable is the same as a missing one."""
    assert load(WorkerSettings, {**WORKER, "QUEUE_NAME": ""}).queue_name == "jobs"
    assert problems(WorkerSettings, {**WORKER, "REPORT_KEY_FILE": ""}) == ["REPORT_KEY_FILE is missing"]


def test_a_service_s_own_variable_takes_precedence() -> None:
    """A variable with the service's name in front applies to that service only."""
    env = {**WORKER, "LOG_LEVEL": "error", "WORKER_LOG_LEVEL": "debug", "NOTIFIER_LOG_LEVEL": "info"}
    assert load(WorkerSettings, env).log_level == "debug"
    assert load(SubmitterSettings, {**env, **SUBMITTER}).log_level == "error"
    assert problems(WorkerSettings, {**env, "WORKER_LOG_LEVEL": "loud"})[0].startswith("WORKER_LOG_LEVEL: ")


@pytest.mark.parametrize(
    ("text", "items"),
    [("a,b", ("a", "b")), (" a , b ,", ("a", "b")), ("a", ("a",)), (",", ())],
)
def test_lists_are_separated_by_commas(text: str, items: tuple[str, ...]) -> None:
    """Spaces around items and empty items are ignored."""
    assert load(WorkerSettings, {**WORKER, "WORKER_JOBS": text}).worker_jobs == items


def test_secrets_are_hidden_when_printed() -> None:
    """Printed settings contain no secret; the secret itself is still a string."""
    settings = load(WorkerSettings, WORKER)
    redis = load(
        NotifierSettings, {"REDIS_URL": "redis://:hunter2@redis", "REPORT_KEY_FILE": "r", "TOKEN_PUBLIC_KEY_FILE": "p"}
    )
    for printed in (repr(settings), str(settings), f"{redis}", repr(redis.redis_url)):
        assert "c2VjcmV0" not in printed
        assert "hunter2" not in printed
    assert "********" in repr(settings)
    assert isinstance(settings.queue_connection_string, Secret)
    assert settings.queue_connection_string.split(";")[1] == "AccountName=a"


def test_one_way_to_submit_must_be_chosen() -> None:
    """Open mode and API keys exclude each other, and one of them is required."""
    assert load(SubmitterSettings, SUBMITTER).submitter_api_keys is None
    keyed = {**SUBMITTER, "SUBMITTER_OPEN": "false", "SUBMITTER_API_KEYS": "/keys/api"}
    assert load(SubmitterSettings, keyed).submitter_api_keys == Path("/keys/api")
    expected = "exactly one of SUBMITTER_OPEN and SUBMITTER_API_KEYS must be set"
    assert problems(SubmitterSettings, {**SUBMITTER, "SUBMITTER_OPEN": ""}) == [expected]
    assert problems(SubmitterSettings, {**SUBMITTER, "SUBMITTER_API_KEYS": "/keys/api"}) == [expected]


def test_the_submitter_s_own_origin_is_allowed() -> None:
    """The submitter's pages may post forms; pages of other origins only if they are listed."""
    settings = load(SubmitterSettings, {**SUBMITTER, "ALLOWED_ORIGINS": "https://a.example,https://b.example"})
    assert settings.origins == ("https://jobs.example", "https://a.example", "https://b.example")


def replace(path: Path, text: str) -> None:
    """Replace a file by a new one, as editors and Kubernetes do."""
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.replace(path)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """A rotated key is used at the next access, and an unchanged file is parsed once."""
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


@pytest.mark.parametrize("invalid", ["", "# nothing\n"])
def test_the_last_valid_value_is_kept(tmp_path: Path, invalid: str) -> None:
    """A half-written, empty or missing file changes nothing; it is read again once it is valid."""
    path = tmp_path / "keys"
    path.write_text("one\n")
    keys = ReloadingFile(path, read_keys)
    replace(path, invalid)
    assert keys.value == ("one",)
    path.write_bytes(b"\xff\xfe")
    assert keys.value == ("one",)
    path.unlink()
    assert keys.value == ("one",)
    replace(path, "two\n")
    assert keys.value == ("two",)


def test_a_file_that_is_invalid_at_the_start_is_an_error(tmp_path: Path) -> None:
    """A service does not start without valid keys."""
    with pytest.raises(SettingsError, match=r"keys: .*No such file"):
        ReloadingFile(tmp_path / "keys", read_keys)
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(SettingsError, match=r"keys: .*contains no key"):
        ReloadingFile(tmp_path / "keys", read_keys)


def test_a_key_file_has_one_key_per_line() -> None:
    """Comments, surrounding spaces and empty lines are ignored."""
    assert read_keys("# ours\n  # old\n  one \n\r\n\ntwo") == ("one", "two")


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://www.example.org", "https://www.example.org"),
        ("HTTP://LOCALHOST:8501/", "http://localhost:8501"),
        ("https://example.org:443", "https://example.org"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_origins_are_normalized(text: str, origin: str) -> None:
    """An origin is converted to the form that browsers send, because origins are compared as text."""
    assert load(SubmitterSettings, {**SUBMITTER, "ALLOWED_ORIGINS": f"{text}, http://b"}).allowed_origins == (
        origin,
        "http://b",
    )


@pytest.mark.parametrize(
    "text", ["www.example.org", "https://", "https://a/path", "https://a?b", "ftp://a", "*", "null"]
)
def test_an_invalid_origin_is_a_problem(text: str) -> None:
    """A typo is reported; the service does not start with an origin that no page has."""
    (problem,) = problems(SubmitterSettings, {**SUBMITTER, "ALLOWED_ORIGINS": text})
    assert re.match(r"ALLOWED_ORIGINS: Expected (an origin|a URL) such as ", problem)


def test_the_urls_of_the_services_must_be_valid() -> None:
    """An invalid URL is reported, because pages and links contain it."""
    reported = problems(SubmitterSettings, {**SUBMITTER, "SUBMITTER_URL": "jobs.example", "LIVE_URL": "ws://live"})
    assert {line.split(":")[0] for line in reported} == {"SUBMITTER_URL", "LIVE_URL"}


def test_one_way_to_the_queue_must_be_chosen() -> None:
    """The queue is set by a connection string or by the https URL of an account, not by both."""
    neither = {name: value for name, value in WORKER.items() if name != "QUEUE_CONNECTION_STRING"}
    both = {**WORKER, "QUEUE_ACCOUNT_URL": "https://a.queue.core.windows.net"}
    assert problems(WorkerSettings, neither) == [
        "QUEUE_CONNECTION_STRING or QUEUE_ACCOUNT_URL: set exactly one of them"
    ]
    assert problems(WorkerSettings, both) == ["QUEUE_CONNECTION_STRING and QUEUE_ACCOUNT_URL: set exactly one of them"]
    assert (
        "Expected an https URL"
        in problems(WorkerSettings, {**neither, "QUEUE_ACCOUNT_URL": "http://a.queue.core.windows.net"})[0]
    )
    account = load(WorkerSettings, {**neither, "QUEUE_ACCOUNT_URL": "https://a.queue.core.windows.net"})
    assert account.queue_account_url == "https://a.queue.core.windows.net"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("QUEUE_NAME", "hj"),
        ("QUEUE_NAME", "a" * 60),
        ("QUEUE_CONNECTION_STRING", "AccountName=a;AccountKey=c2VjcmV0c2Vjcm"),
        ("QUEUE_CONNECTION_STRING", "AccountKey=c2VjcmV0"),
        ("QUEUE_API_VERSION", "latest"),
        ("NOTIFIER_INTERNAL_URL", "notifier:9090"),
        ("NOTIFIER_INTERNAL_URL", "http://notifier:90900"),
        ("NOTIFIER_INTERNAL_URL", "http://user:c2VjcmV0@notifier"),
        ("NOTIFIER_INTERNAL_URL", "http://notifier:9090?key=c2VjcmV0"),
        ("NOTIFIER_INTERNAL_URL", "http://my notifier"),
        ("JOB_TTL_S", "inf"),
        ("JOB_TTL_S", "1e12"),
    ],
)
@pytest.mark.parametrize("settings_type", [WorkerSettings, SubmitterSettings])
def test_what_would_fail_later_is_a_problem_at_the_start(
    settings_type: type[WorkerSettings | SubmitterSettings], setting: str, value: str
) -> None:
    """The problem names the setting, and contains no secret."""
    (problem,) = problems(settings_type, {**WORKER, **SUBMITTER, setting: value})
    assert problem.startswith(f"{setting}: ")
    assert "c2VjcmV0" not in problem


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e300"])
@pytest.mark.parametrize(
    ("settings_type", "setting"),
    [
        (WorkerSettings, "HEARTBEAT_S"),
        (WorkerSettings, "GRACE_S"),
        (SubmitterSettings, "SUBMIT_RATE"),
        (NotifierSettings, "PING_S"),
        (NotifierSettings, "MESSAGES_PER_S"),
    ],
)
def test_a_number_is_finite(
    settings_type: type[SubmitterSettings | WorkerSettings | NotifierSettings], setting: str, value: str
) -> None:
    """An infinite time or rate would fail when it is used."""
    env = {**WORKER, **SUBMITTER, "REDIS_URL": "redis://redis", "TOKEN_PUBLIC_KEY_FILE": "p", setting: value}
    (problem,) = problems(settings_type, env)
    assert problem.startswith(f"{setting}: ")


async def test_what_the_azure_sdk_does_not_accept_is_a_problem() -> None:
    """A version of the API that the SDK does not know is reported when the queue is opened."""
    settings = load(WorkerSettings, {**WORKER, "QUEUE_API_VERSION": "2001-01-01"})
    with pytest.raises(SettingsError, match=r"^the settings of the queue are not accepted: .*2001-01-01.*$"):
        async with settings.queue():
            pass
    async with load(WorkerSettings, WORKER).queue() as queue:
        assert queue.name == "jobs"
        with pytest.raises(ValueError, match="of the block"):
            raise_in_block()


def raise_in_block() -> None:
    """Raise an error that is not one of the settings."""
    raise ValueError("of the block")
