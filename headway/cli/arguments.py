"""Types of arguments, and options that several commands have."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import msgspec

from headway.cli.durations import UNITS_S
from headway.client.links import LOCAL_URL, http_url
from headway.contracts import MAX_NAME_LENGTH, Json, Timestamp, decode
from headway.utf8_text import NotUtf8, argument, read_file, read_stdin, variable

_DURATION = re.compile(rf"(\d+)\s*({'|'.join(UNITS_S)})")


def add_submitter_options(parser: argparse.ArgumentParser) -> None:
    """Add `--url` and `--api-key-file`."""
    parser.add_argument(
        "--url",
        type=_url,
        default=os.environ.get("HEADWAY_URL") or LOCAL_URL,
        help="URL of the submitter (default: $HEADWAY_URL, or %(default)s)",
    )
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="file with the API key (default: the key in $HEADWAY_API_KEY)"
    )


def api_key(options: argparse.Namespace) -> str | None:
    """Return the API key of `--api-key-file` or of the environment, if there is one."""
    file: Path | None = options.api_key_file
    key = variable("HEADWAY_API_KEY") if file is None else read_file(file).strip()
    return key or None


def add_token_option(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add `--token-stdin`."""
    parser.add_argument(
        "--token-stdin", action="store_true", help=f"read the token from stdin, {purpose} (default: $HEADWAY_TOKEN)"
    )


def token(options: argparse.Namespace) -> str | None:
    """Return the token of stdin or of the environment, if there is one."""
    text = read_stdin() if options.token_stdin else variable("HEADWAY_TOKEN")
    return (text or "").strip() or None


def kind(text: str) -> str:
    """Parse the kind of a job."""
    parsed = utf8(text, "the kind")
    if not 0 < len(parsed) <= MAX_NAME_LENGTH:
        raise argparse.ArgumentTypeError(f"expected a kind of 1 to {MAX_NAME_LENGTH} characters")
    return parsed


def utf8(text: str, source: str = "the argument") -> str:
    """Return the text of an argument, which is UTF-8 whatever the locale is; `source` names it in an error."""
    try:
        return argument(text, source)
    except NotUtf8 as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def natural(text: str) -> int:
    """Parse a whole number from 0."""
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def positive(text: str) -> int:
    """Parse a whole number from 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def payload(text: str) -> Json:
    """Parse a payload: JSON, `@FILE`, or `@-` for stdin."""
    file = text.removeprefix("@") if text.startswith("@") else None
    try:
        json = argument(text, "the payload") if file is None else _read(file)
        decode(json, Json)
    except msgspec.DecodeError as error:
        source = {None: "", "-": "stdin: "}.get(file, f"{file}: ")
        raise argparse.ArgumentTypeError(f"{source}{error}") from error
    except (OSError, NotUtf8) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Json(json.encode())


def _read(file: str) -> str:
    return read_stdin() if file == "-" else read_file(Path(file))


def time(text: str) -> Timestamp:
    """Parse a time: RFC 3339, or how long ago it was, such as `30min`, `12h` or `7d`."""
    if match := _DURATION.fullmatch(text.strip()):
        return Timestamp(max(0, Timestamp.now() - 1000 * int(match[1]) * UNITS_S[match[2]]))
    try:
        return Timestamp.parse(text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(
            f"expected a time such as 2026-01-01T09:00:00Z, or a duration such as 30min, 12h or 7d, not {text!r}"
        ) from error


def _url(text: str) -> str:
    source = "HEADWAY_URL" if text == os.environ.get("HEADWAY_URL") else "the address"
    return http_url(utf8(text, source).strip())
