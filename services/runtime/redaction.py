"""Removes secrets from texts that leave the process: log lines, the logs of jobs, and the details of their errors.

Hidden are tokens and keys of a known form, and the values of environment variables with the name of a secret.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache

from .settings import environment

HIDDEN = "[hidden]"
MIN_SECRET_LENGTH = 8  # characters; a shorter value may be part of any word

# A job may log any text, so each alternative must take linear time.
_SECRETS = re.compile(
    r"(?<![\w-])(?>[\w-]*?eyJ)[\w-]++\.[\w-]++\.[\w-]*"  # a JSON Web Token, anywhere in a line
    r"|(?<=/progress/)[^/?\s\"']+"  # the report key of a one-line report
    r"|(?<=AccountKey=)[^;\s\"']+|(?<=sig=)[^&\s\"']+"  # account keys and signatures of Azure
    r"|(?<=://)[^/@\s:]*:[^/@\s]+(?=@)"  # user and password in a URL
    r"|(?i:bearer\W+)[^\s\"']+"
)
# Checked before the slower pattern: each of its alternatives contains one of these strings, or "bearer".
_SECRET_MARKERS = ("eyJ", "/progress/", "AccountKey=", "sig=", "@")
_NAME_OF_SECRET = re.compile(
    r"KEYS?(?![A-Z])|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|CONNECTION_?STRING|(?<![A-Z])(?:DSN|SAS)(?![A-Z])"
    r"|OTLP\w*_HEADERS",  # with the key of the collector
    re.IGNORECASE,
)


class Redactor:
    """Replaces the secrets in a text by `HIDDEN`.

    Args:
        environ: the environment, whose variables may be secrets; the path of a file is not one.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        values = (
            value.strip()
            for name, value in environ.items()
            if _NAME_OF_SECRET.search(name) and not _is_existing_path(value)
        )
        texts = {text for value in values for text in _written_forms(value) if len(text) >= MIN_SECRET_LENGTH}
        self._values = sorted(texts, key=len, reverse=True)  # one may contain another

    def __call__(self, text: str) -> str:
        """Return a text without the secrets in it."""
        for value in self._values:
            if value in text:
                text = text.replace(value, HIDDEN)
        may_contain_secret = any(marker in text for marker in _SECRET_MARKERS) or "bearer" in text.lower()
        return _SECRETS.sub(HIDDEN, text) if may_contain_secret else text


def redact(text: str) -> str:
    """Return a text without the secrets in it, those of this process's environment included."""
    return _redactor()(text)


@cache
def _redactor() -> Redactor:
    return Redactor(environment())


def _is_existing_path(value: str) -> bool:
    return os.sep in value and os.path.exists(value)  # noqa: PTH110 - `Path.exists` raises if the text is too long


def _written_forms(value: str) -> Iterator[str]:
    """Yield a value, its lines, and how it appears in JSON and in the `repr` of a Python value."""
    for text in (value, *map(str.strip, value.splitlines())):
        yield text
        yield json.dumps(text)[1:-1]
        yield repr(text)[1:-1]
