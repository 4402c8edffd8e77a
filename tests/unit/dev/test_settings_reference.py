"""The generated page of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from dev import settings_reference
from services.notifier.settings import NotifierSettings
from services.runtime.settings import OriginList, Secret, Settings, Url
from services.submitter.settings import SubmitterSettings
from services.worker.settings import WorkerSettings


class Example(Settings, frozen=True, kw_only=True):
    """Settings with a description for the first one only."""

    retries: int = 3
    """How often to try again,
    at most."""
    # This comment is not a description.
    folder: Path


def test_page_is_up_to_date() -> None:
    """The page has all settings as the code declares them; `python -m dev.settings_reference` updates it."""
    page = settings_reference.PAGE.read_text()
    assert settings_reference.update(page) == page


def test_every_setting_needs_a_description() -> None:
    """A field without a text below it is an error, which names the field."""
    with pytest.raises(ValueError, match=r"^Example\.folder has no description$"):
        settings_reference.descriptions(Example)


@pytest.mark.parametrize("service", [SubmitterSettings, WorkerSettings, NotifierSettings])
def test_every_setting_is_in_one_table(service: type[Settings]) -> None:
    """Each setting of a service is in the table of the class that declares it, and in no other."""
    groups = [group for group in settings_reference.GROUPS.values() if issubclass(service, group)]
    described = [name for group in groups for name in settings_reference.descriptions(group)]
    assert sorted(described) == sorted(service.__struct_fields__)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (int, "integer"),
        (Annotated[int, Meta(ge=1, le=9)], "integer, 1 to 9"),
        (Annotated[int, Meta(ge=0)], "integer, at least 0"),
        (Annotated[float, Meta(gt=0)], "number, more than 0"),
        (Literal["a", "b"], "`a`, `b`"),
        (Path | None, "file"),
        (Secret | None, "secret"),
        (Url, "URL"),
        (OriginList, "list of origins"),
    ],
)
def test_types_are_described_with_their_bounds(annotation: Any, expected: str) -> None:
    """A type has a plain name, and its bounds."""
    assert settings_reference.type_name(annotation) == expected
