"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from dev.environment import ROOT
from services.notifier.settings import NotifierSettings
from services.settings import Settings
from services.submitter.settings import SubmitterSettings
from services.worker.settings import WorkerSettings

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")]


@pytest.mark.parametrize("kind", [SubmitterSettings, WorkerSettings, NotifierSettings])
def test_every_setting_is_documented(kind: type[Settings]) -> None:
    """The table of settings names each one that a service can be told."""
    for field in msgspec.structs.fields(kind):
        names = {field.name.upper(), f"{kind.service}_{field.name}".upper()}
        assert any(f"`{name}`" in ARCHITECTURE for name in names), field.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link and picture of a document exists, and so does the heading that a link names."""
    for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", document.read_text()):
        there = document.parent / target if target else document
        assert there.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            assert heading in [title.lower().replace(" ", "-") for title in titles], f"{target}#{heading}"


def test_the_job_of_the_readme_runs() -> None:
    """The README's job is a job: it imports, and takes the payload that the README sends."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {"__name__": "readme"}
    exec(code, names)
    (payload,) = re.findall(r'"payload": (\{.*?\})\}', README)
    assert msgspec.json.decode(payload, type=names["Letters"]) == names["Letters"](to=["a", "b", "c"])  # type: ignore[operator]
