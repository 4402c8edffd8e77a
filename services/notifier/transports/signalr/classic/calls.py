"""Calls of the server's methods by clients. The classic hub has none: a client has named its job in the URL."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from headway.contracts import decode

MAX_CALL_BYTES = 64 * 1024


class HubCall(Struct, frozen=True):
    """A call: the hub, the method, and the id with which the client expects the answer."""

    H: str = ""
    M: str = ""
    I: int | str = ""  # noqa: E741 - the names of the protocol


def answer_call(text: str) -> bytes:
    """Return the answer to a call.

    Raises:
        ValueError: the text is not a call.
    """
    try:
        call = decode(text, HubCall)
    except msgspec.DecodeError as error:
        raise ValueError("expected a call of a method") from error
    reason = f"'{call.M}' method could not be resolved. No method found with that name."
    return msgspec.json.encode({"I": str(call.I), "E": reason})
