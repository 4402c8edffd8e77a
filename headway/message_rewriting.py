"""Rewriting of queue messages: a worker or an operator replaces some fields and keeps all others."""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID

from headway.contracts import Json, decode, encode
from headway.message_codec import message_json

_Fields: Any = dict[str, Json] | UUID  # a JSON string with a UUID is a message, too


def rewrite_message(text: str, **changes: Any) -> str:
    """Return a queue message, encoded as `encode_message` does, with some fields replaced.

    All other fields stay as they are, byte for byte, including those that only a newer version knows.

    Args:
        text: the encoded message.
        changes: the new values by field; None removes a field, so that its default applies.

    Raises:
        msgspec.DecodeError: the text is not a queue message.
    """
    fields = decode(message_json(text), _Fields)
    if isinstance(fields, UUID):
        fields = {"id": fields}
    fields |= changes
    return base64.b64encode(encode({name: value for name, value in fields.items() if value is not None})).decode()
