"""Tokens and links that are issued on the command line, and the options for it."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path

from headway.client.links import http_url
from headway.tokens import Grant, TokenSigner
from headway.utf8_text import read_file

LOCAL_KEY_FILE = ".headway/keys/token.pem"
WEEK_S = 7 * 86_400


def add_options(parser: ArgumentParser, ttl_help: str) -> None:
    """Add `--ttl`, `--key` and `--link`."""
    parser.add_argument("--ttl", type=float, default=WEEK_S, metavar="SECONDS", help=ttl_help)
    parser.add_argument(
        "--key",
        type=Path,
        default=os.environ.get("TOKEN_KEY_FILE", LOCAL_KEY_FILE),
        metavar="FILE",
        help="file with the private key (default: $TOKEN_KEY_FILE, or %(default)s)",
    )
    parser.add_argument(
        "--link", type=http_url, metavar="URL", help="print a link to the job's page; URL is the submitter's"
    )


class TokenIssuer:
    """Issues tokens, or links that contain a token if the submitter's URL is given."""

    def __init__(self, key_file: Path, submitter_url: str | None) -> None:
        self._signer = TokenSigner(read_file(key_file))
        self._submitter_url = submitter_url

    def issue(self, grant: Grant) -> str:
        """Return a token or a link."""
        token = self._signer.sign(grant)
        return token if self._submitter_url is None else f"{self._submitter_url}/jobs/{grant.job_id}#{token}"
