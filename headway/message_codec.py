"""Encode and decode queue messages: JSON, which is written as base64 and read with or without it."""

from __future__ import annotations

import base64
import codecs
import re
import string
from typing import Literal
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from headway.contracts import DEFAULT_ATTEMPTS, NULL, JobMessage, Json, decode, encode

MessageEncoding = Literal["plain", "base64", "neither"]
BOM = "\ufeff"  # a byte order mark
JSON_STARTS = (b"{", b'"', b"[")  # no base64 begins so
BARE_UUID = re.compile(rb"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
STANDARD_BASE64 = str.maketrans("-_", "+/")  # from the URL-safe alphabet
FIELDS_OF_0_1 = frozenset(
    {"id", "kind", "payload", "submitted_at", "expires_at", "generation", "max_attempts", "timeout_s", "releases"}
    | {"checkpoint"}
)


class _MessageWithId(Struct):
    id: UUID


def encode_message(message: JobMessage) -> str:
    """Encode a queue message as base64 of JSON, which the WebJobs SDK and Azure Functions expect."""
    return base64.b64encode(encode(message)).decode()


def decode_message(text: str) -> JobMessage:
    """Decode a queue message: JSON, plain or in base64. A UUID, with quotes or without, is a `countdown` job.

    Raises:
        msgspec.ValidationError: a field is missing or invalid; the message names it.
        msgspec.DecodeError: the text is not JSON, not UTF-8, or nested too deep.
    """
    data = message_json(text)
    if data.lstrip().startswith(b'"'):
        return JobMessage(id=decode(data, UUID))
    message = decode(data, JobMessage)
    if message.max_attempts == DEFAULT_ATTEMPTS and _is_of_0_1(data):
        return replace(message, max_attempts=None)
    return message


def extract_job_id(text: str) -> UUID | None:
    """Return the job id of a queue message even if other fields are invalid, or None if the id is invalid, too."""
    try:
        return decode(message_json(text), _MessageWithId).id
    except msgspec.DecodeError:
        return None


def message_json(text: str) -> bytes:
    """Return the JSON of a queue message."""
    return _read_message(text)[0]


def message_encoding(text: str) -> MessageEncoding:
    """Return the encoding of a queue message's JSON: `neither` if the text is not JSON, and not base64 of a text."""
    return _read_message(text)[1]


def _read_message(text: str) -> tuple[bytes, MessageEncoding]:
    stripped = text.strip(BOM + string.whitespace)
    plain = _quote_uuid(stripped.encode(errors="replace"))
    if plain.startswith(JSON_STARTS):
        return plain, "plain"
    digits = "".join(stripped.split()).translate(STANDARD_BASE64).rstrip("=")
    try:
        data = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
        data = _quote_uuid(data.removeprefix(codecs.BOM_UTF8))
        if not data.startswith(JSON_STARTS):
            data.decode()  # many a word is valid base64, but hardly ever of UTF-8
    except ValueError:
        return plain, "neither"
    return data, "base64"


def _quote_uuid(data: bytes) -> bytes:
    """Return data that is only a UUID as JSON, other data as it is. A UUID is valid base64, too, but not meant so."""
    text = data.strip()
    return b'"%b"' % text if BARE_UUID.fullmatch(text) else data


def _is_of_0_1(data: bytes) -> bool:
    """Return whether version 0.1 wrote a message. It writes all fields, and 5 attempts if the number is not set."""
    fields = decode(data, dict[str, Json])
    defaults = [bytes(fields.get(name, NULL)) in (b"0", b"null") for name in ("generation", "timeout_s", "checkpoint")]
    return fields.keys() >= FIELDS_OF_0_1 and any(defaults)
