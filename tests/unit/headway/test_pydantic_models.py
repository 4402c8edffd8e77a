"""Pydantic models as payloads and results of jobs."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dev.environment import ROOT
from headway import JobContext, job
from headway.contracts import check_decodable, encode_value
from headway.testing import run


class Size(BaseModel):
    """A part of a payload."""

    model_config = ConfigDict(strict=True)

    width: int = Field(ge=1)
    taken_at: datetime | None = None


class Photo(BaseModel):
    """A payload, with an alias and a validator of its own."""

    name: str = Field(alias="fileName")
    sizes: list[Size] = []
    id: UUID | None = None

    @field_validator("name")
    @classmethod
    def check(cls, name: str) -> str:
        """Refuse one name."""
        if name == "secret.jpg":
            raise ValueError("this name is taken")
        return name


class Wrapped(Struct):
    """A msgspec type around a model."""

    photos: list[Photo]


class Level(Enum):
    """An enumeration in a model."""

    HIGH = "high"


class Loss(BaseModel):
    """A result with numbers."""

    best: float | None
    level: Level = Level.HIGH


@job("photo")
async def photo(_ctx: JobContext, payload: Photo) -> Photo:
    """Return the payload."""
    assert isinstance(payload, Photo)
    return payload


@job("wrapped")
def wrapped(_ctx: JobContext, payload: Wrapped) -> list[Photo]:
    """Return the photos, in a thread."""
    return payload.photos


JSON_PHOTO = {"fileName": "a.jpg", "sizes": [{"width": 3, "taken_at": "2026-01-01T00:00:00Z"}], "id": str(UUID(int=7))}


def test_a_model_is_payload_and_result() -> None:
    """The payload is validated by Pydantic, with strict models as in JSON and with aliases; the result round-trips."""
    result = run(photo, JSON_PHOTO).result
    assert (result.name, result.sizes[0].width, result.id) == ("a.jpg", 3, UUID(int=7))
    assert msgspec.json.decode(encode_value("result", result)) == JSON_PHOTO
    assert run(photo, result).result == result


def test_a_model_may_be_inside_another_type() -> None:
    """Models and msgspec types may contain each other."""
    check_decodable(Wrapped)
    assert run(wrapped, Wrapped([Photo(fileName="a")])).result[0].name == "a"


class Cat(BaseModel):
    """One of two models."""

    type: Literal["cat"]


class Dog(BaseModel):
    """The other one."""

    type: Literal["dog"]


class Pet(BaseModel):
    """A model with a choice of models."""

    animal: Cat | Dog = Field(discriminator="type")


@job("pet")
def pet(_ctx: JobContext, payload: Pet) -> None:
    """Never run."""


def test_an_unknown_tag_is_not_quoted() -> None:
    """The message of a tagged union names the field only."""
    with pytest.raises(msgspec.ValidationError) as raised:
        run(pet, {"animal": {"type": "hunter2"}})
    assert str(raised.value) == "`animal`: Input tag does not match any of the expected tags"


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({}, "`fileName`: Field required"),
        ({"fileName": ["hunter2"]}, "`fileName`: Input should be a valid string"),
        ({"fileName": "a", "sizes": [{"width": "hunter2"}]}, "`sizes.0.width`: Input should be a valid integer"),
        ({"fileName": "a", "sizes": [{"width": 0}]}, "`sizes.0.width`: Input should be greater than or equal to 1"),
        ({"fileName": "secret.jpg", "id": "hunter2"}, "`fileName`: Value error, this name is taken"),
        ("hunter2", "Input should be an object"),
    ],
)
def test_an_error_names_the_field_and_not_its_value(payload: Any, field: str) -> None:
    """The message of the validation error names each invalid field, and quotes no input."""
    with pytest.raises(msgspec.ValidationError) as raised:
        run(photo, payload)
    error: BaseException | None = raised.value
    assert field in str(error)
    while error is not None:
        assert not isinstance(error, ValidationError)
        assert "hunter2" not in str(error)
        error = error.__cause__


def test_a_number_of_a_model_that_json_cannot_represent_is_refused() -> None:
    """The error has the path."""
    assert msgspec.json.decode(encode_value("result", Loss(best=None))) == {"best": None, "level": "high"}
    for value in (Loss(best=float("nan")), [Loss(best=float("nan"))]):
        with pytest.raises(ValueError, match=r"^result(\[0\])?\.best is nan, which JSON cannot represent"):
            encode_value("result", value)


def test_an_incomplete_model_is_refused() -> None:
    """A model with a type that cannot be resolved is refused when the worker starts."""

    class Incomplete(BaseModel):
        photo: OnlyForTypeCheckers  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(NameError, match="OnlyForTypeCheckers"):
        check_decodable(Incomplete)


def test_pydantic_is_not_required() -> None:
    """Headway does not import it."""
    program = "import sys, headway, headway.testing, headway.contracts; sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
