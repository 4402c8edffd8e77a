"""`headway logs` against a fake notifier."""

from __future__ import annotations

import pytest

from headway.client import job_logs
from tests.unit.headway.cli.test_list_commands import _environment as _environment
from tests.unit.headway.cli.test_list_commands import headway
from tests.unit.headway.client.conftest import _short_delays as _short_delays
from tests.unit.headway.client.conftest import services as services
from tests.unit.headway.client.fake_services import Services
from tests.unit.headway.client.test_job_logs import FakeLog, new_log

HOSTILE = "a\x00b \x1b[2J</script>\r10 %\r\n20 %\ttab ü\u009b\u2028\n"


@pytest.fixture
def log(services: Services, monkeypatch: pytest.MonkeyPatch) -> FakeLog:
    """Return the log of a job that runs."""
    monkeypatch.setattr(job_logs, "EMPTY_READ_DELAY_S", 0.01)
    return new_log(services)


async def test_a_log_is_printed(log: FakeLog, capsys: pytest.CaptureFixture[str]) -> None:
    """From the offset on, in one request after the token's and the link's."""
    await log.write("grüße\n".encode())
    assert await headway("logs", str(log.job_id)) == 0
    assert await headway("logs", str(log.job_id), "--from", "4") == 0
    assert capsys.readouterr() == ("grüße\nße\n", "")
    assert await headway("logs", str(log.job_id), "--from", "8") == 0
    assert capsys.readouterr() == ("", "headway: the job has logged nothing more\n")
    log.text = b""
    assert await headway("logs", f"{log.services.url}/jobs/{log.job_id}#{log.issued}") == 0
    assert capsys.readouterr() == ("", "headway: the job has logged nothing\n")


async def test_control_characters_are_escaped(log: FakeLog, capsys: pytest.CaptureFixture[str]) -> None:
    """A log cannot control the terminal, unless the user asks for the raw text."""
    await log.write(HOSTILE.encode())
    assert await headway("logs", str(log.job_id)) == 0
    assert capsys.readouterr().out == "a\\x00b \\x1b[2J</script>\n10 %\n20 %\ttab ü\\x9b\\u2028\n"
    assert await headway("logs", str(log.job_id), "--raw") == 0
    assert capsys.readouterr().out == HOSTILE


async def test_a_log_is_followed(log: FakeLog, capsys: pytest.CaptureFixture[str]) -> None:
    """Until the job has ended."""
    await log.write(b"all\n")
    log.ended.set()
    assert await headway("logs", "--follow", str(log.job_id)) == 0
    assert capsys.readouterr().out == "all\n"


@pytest.mark.parametrize("offset", ["-1", "x"])
async def test_an_offset_is_a_number(offset: str) -> None:
    """Any other is a usage error."""
    with pytest.raises(SystemExit, match="2"):
        await headway("logs", "4a5e8d60", f"--from={offset}")
