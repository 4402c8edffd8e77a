"""Issuing tokens on the command line: the options, and tokens or links as output."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path

from headway.client.links import http_url
from headway.tokens import Grant, TokenSigner

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
        help="the private key (default: $TOKEN_KEY_FILE, or %(default)s)",
    )
    parser.add_argument("--link", type=http_url, metavar="URL", help="print a link to the job's page at this submitter")


class TokenIssuer:
    """Issues tokens, or with a submitter's URL links that contain them."""

    def __init__(self, key: Path, base: str | None) -> None:
        self._signer = TokenSigner(key.read_text())
        self._base = base

    def issue(self, grant: Grant) -> str:
        """Return the token or the link."""
        token = self._signer.sign(grant)
        return token if self._base is None else f"{self._base}/jobs/{grant.job_id}#{token}"
