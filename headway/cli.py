"""The `headway` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from headway.contracts import Timestamp
from headway.tokens import CANCEL, WATCH, Pass, TokenSigner, make_keys

LOCAL_KEY = ".headway/keys/token.pem"
WEEK_S = 7 * 86_400


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 could not be done, 2 called wrongly."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (OSError, ValueError, OverflowError) as error:
        print(f"headway: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headway", description="Background jobs, watched live.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    token = commands.add_parser("token", help="print a token to watch a job with")
    token.add_argument("job_id", type=UUID, metavar="JOB_ID")
    token.add_argument("--kind", default="countdown", help="the job's kind (default: %(default)s)")
    token.add_argument("--watch-only", action="store_true", help="a token that may not cancel, for sharing")
    token.add_argument("--ttl", type=float, default=WEEK_S, metavar="SECONDS", help="how long it is valid (7 days)")
    token.add_argument("--key", type=Path, default=os.environ.get("TOKEN_KEY_FILE", LOCAL_KEY), metavar="FILE",
                       help="the private key (default: $TOKEN_KEY_FILE, or %(default)s)")  # fmt: skip
    token.set_defaults(run=_token)

    keys = commands.add_parser("keys", help="make the keys that a folder is missing")
    keys.add_argument("directory", type=Path, metavar="FOLDER")
    keys.set_defaults(run=lambda options: make_keys(options.directory))
    return parser


def _token(options: argparse.Namespace) -> None:
    now = Timestamp.now()
    granted = Pass(
        job_id=options.job_id,
        kind=options.kind,
        submitted_at=now,
        expires_at=now.after(options.ttl),
        scope=frozenset({WATCH} if options.watch_only else {WATCH, CANCEL}),
    )
    print(TokenSigner(options.key.read_text()).sign(granted))
