"""Texts from outside the process. They are UTF-8, with or without a byte order mark, whatever the locale is."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Mapping
from pathlib import Path


class NotUtf8(ValueError):
    """A text is not UTF-8; the message names its source and the position of the first invalid byte."""


def decode_utf8(data: bytes, source: str) -> str:
    """Decode a text without its byte order mark; `source` is where it comes from, for the message of NotUtf8."""
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        position = error.start + len(data) - len(error.object)
        line = data.count(b"\n", 0, position) + 1
        raise NotUtf8(
            f"{source} is not UTF-8: invalid byte 0x{data[position]:02x} at position {position} (line {line})"
        ) from None


def read_file(path: Path) -> str:
    """Read a text file; raise OSError or NotUtf8, whose messages have its path."""
    return decode_utf8(path.read_bytes(), str(path))


def read_stdin() -> str:
    """Read standard input to its end."""
    if sys.stdin is None:
        raise OSError("stdin is closed")
    data = getattr(sys.stdin, "buffer", sys.stdin).read()
    return data if isinstance(data, str) else decode_utf8(data, "stdin")  # a test may have replaced stdin


def variable(name: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return an environment variable, stripped; None if it is not set, or empty."""
    value = environ.get(name)
    return (decode_utf8(os.fsencode(value), name).strip() or None) if value else None


def argument(text: str, source: str) -> str:
    """Return an argument of the command line, which Python has decoded as text in the encoding of the locale."""
    data = os.fsencode(text)
    try:
        text.encode()
        return data.decode()
    except UnicodeDecodeError:  # typed on a terminal that has the encoding of the locale
        return text
    except UnicodeEncodeError:  # not valid in that encoding either
        return decode_utf8(data, source)
