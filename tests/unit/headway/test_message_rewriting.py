"""Rewriting of queue messages: all fields that are not replaced stay as they are."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from uuid import UUID

import msgspec
import pytest

from headway.contracts import JobMessage, Json, Progress
from headway.message_codec import decode_message, encode_message, message_json
from headway.message_rewriting import rewrite_message

ID = UUID("6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11")


def as_base64(text: str) -> str:
    """Return a text in base64."""
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("form", [str, as_base64], ids=["plain", "base64"])
def test_other_fields_stay_byte_for_byte(form: Callable[[str], str]) -> None:
    """Numbers, escapes and the fields of newer versions are not decoded and encoded again."""
    others = (
        r'"payload":{"n":1.50,"id":12345678901234567890},"labels":{"name":"R\u00e9sum\u00e9 \ud83c\udf89","tags":[]},'
        r'"$AzureWebJobsParentId":"5b1f2c3d-0000-4000-8000-000000000001"'
    )
    text = form(f'{{"id":"{ID}","releases":1,{others},"progress":{{"current":4}}}}')
    rewritten = rewrite_message(text, releases=2, drains=1, progress=Progress(5, 10))
    assert others in message_json(rewritten).decode()
    message = decode_message(rewritten)
    assert (message.releases, message.drains, message.progress) == (2, 1, Progress(5, 10))


def test_a_field_is_removed() -> None:
    """A removed field has its default."""
    rewritten = rewrite_message(
        f'{{"id":"{ID}","releases":1,"progress":{{"current":4}}}}', releases=None, progress=None
    )
    assert message_json(rewritten) == f'{{"id":"{ID}"}}'.encode()


@pytest.mark.parametrize("text", [f'"{ID}"', str(ID)])
def test_an_id_becomes_a_whole_message(text: str) -> None:
    """A web site of 2015 sends nothing but the job's id."""
    assert decode_message(rewrite_message(text, drains=1)) == JobMessage(id=ID, drains=1)


@pytest.mark.parametrize(
    "text", [encode_message(JobMessage(id=ID, payload=Json(b'"\xc3\xbc"'))), rewrite_message(str(ID), releases=1)]
)
def test_dotnet_programs_can_read_messages(text: str) -> None:
    """They expect one line of padded standard base64, UTF-8 without a BOM, and an object with the id."""
    data = base64.b64decode(text, validate=True)
    assert base64.b64encode(data).decode() == text
    assert json.loads(data.decode())["id"] == str(ID)


@pytest.mark.parametrize("text", ["[]", "nonsense", '"no id"', "{", ""])
def test_other_texts_are_rejected(text: str) -> None:
    """They are no messages."""
    with pytest.raises(msgspec.DecodeError):
        rewrite_message(text, releases=1)
