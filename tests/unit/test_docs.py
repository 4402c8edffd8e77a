"""The documents say what the code does."""

from __future__ import annotations

import re

import msgspec
import pytest

from dev.environment import ROOT
from services.notifier.settings import NotifierSettings
from services.settings import Settings
from services.submitter.settings import SubmitterSettings
from services.worker.settings import WorkerSettings

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("kind", [SubmitterSettings, WorkerSettings, NotifierSettings])
def test_every_setting_is_documented(kind: type[Settings]) -> None:
    """The table of settings names each one that a service can be told."""
    for field in msgspec.structs.fields(kind):
        names = {field.name.upper(), f"{kind.service}_{field.name}".upper()}
        assert any(f"`{name}`" in ARCHITECTURE for name in names), field.name


def test_links_lead_somewhere() -> None:
    """Every relative link and picture of the README exists."""
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_job_of_the_readme_runs() -> None:
    """The README's job is a job: it imports, and takes the payload that the README sends."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {"__name__": "readme"}
    exec(code, names)
    (payload,) = re.findall(r'"payload": (\{.*?\})\}', README)
    assert msgspec.json.decode(payload, type=names["Letters"]) == names["Letters"](to=["a", "b", "c"])  # type: ignore[operator]
