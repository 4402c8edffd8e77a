"""The `headway` command.

Modules that need aiohttp, rich or the Azure SDK are imported by the commands that use them, so `token` and `keys` work
without these packages.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from uuid import UUID

from headway import __version__
from headway.cli import (
    arguments,
    fleet_commands,
    list_commands,
    log_command,
    operation_commands,
    poison_commands,
    service_commands,
    tokens,
)
from headway.client.links import Link
from headway.contracts import Timestamp
from headway.tokens import CANCEL, WATCH, Grant, make_keys
from headway.utf8_text import read_stdin, variable

EPILOG = "Exit codes: 0 success, 1 failure, 2 usage error, 130 cancelled or interrupted."
LINK_HELP = "a link to a job, or - to read links from stdin"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 success, 1 failure, 2 usage error, 130 cancelled."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the encoding of stdout may lack a character
    options = _parser().parse_args(argv)
    try:
        return options.run(options) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader closed the pipe: discard buffered output, or Python would report it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        print(f"headway: {error.name} is not installed: pip install 'headway[{options.extra}]'", file=sys.stderr)
    except (OSError, ValueError, OverflowError) as error:
        print(f"headway: {error}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headway", description="Background jobs, watched live.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"headway {__version__}")
    parser.set_defaults(extra="cli")  # the package extra that a command requires
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_submit(commands.add_parser("submit", help="submit a job and print its link, or watch it", epilog=EPILOG))
    _add_link_command(commands.add_parser("watch", help="watch jobs until they end", epilog=EPILOG), "watch", "+")
    _add_link_command(commands.add_parser("cancel", help="cancel a job"), "cancel", 1)
    _add_token(commands.add_parser("token", help="issue a token for a job"))
    list_commands.add_commands(commands)
    log_command.add_commands(commands)
    operation_commands.add_commands(commands)
    fleet_commands.add_commands(commands)
    poison_commands.add_commands(commands.add_parser("poison", help="list, show, redrive and discard poison messages"))

    keys = commands.add_parser("keys", help="create missing keys in a folder")
    keys.add_argument("directory", type=Path, metavar="FOLDER")
    keys.set_defaults(run=lambda options: make_keys(options.directory))
    service_commands.add_commands(commands)
    return parser


def _add_submit(submit: argparse.ArgumentParser) -> None:
    submit.add_argument("kind", type=arguments.kind, metavar="KIND")
    submit.add_argument(
        "--payload", type=arguments.payload, metavar="JSON", help="JSON, @FILE, or @- for stdin (default: {})"
    )
    submit.add_argument("--delay", type=float, default=0, metavar="SECONDS", help="delay before the job starts")
    submit.add_argument("--max-attempts", type=int, metavar="N", help="maximum number of attempts")
    submit.add_argument("--timeout", type=float, metavar="SECONDS", help="time limit of each attempt")
    submit.add_argument("--name", type=arguments.utf8, metavar="NAME", help="what people call the job")
    submit.add_argument(
        "--owner", type=arguments.utf8, metavar="OWNER", help="whom the job belongs to; needs an API key"
    )
    submit.add_argument(
        "--tag",
        type=arguments.utf8,
        action="append",
        metavar="TAG",
        help="a tag; repeat it for several; needs an API key",
    )
    submit.add_argument("--on-end", type=arguments.kind, metavar="KIND", help="kind of the job to submit at its end")
    submit.add_argument("--idempotency-key", metavar="KEY", help="repeating a submission with it returns the same job")
    submit.add_argument("--watch", action="store_true", help="watch the job until it ends instead of printing its link")
    submit.add_argument("--json", action="store_true", help="print the receipt, or each snapshot, as a line of JSON")
    arguments.add_submitter_options(submit)
    submit.set_defaults(run=_run_command("submit"))


def _add_link_command(parser: argparse.ArgumentParser, name: str, count: str | int) -> None:
    parser.add_argument("links", nargs=count, metavar="LINK", help=LINK_HELP)
    arguments.add_token_option(parser, "for links without one")
    parser.add_argument("--json", action="store_true", help="print each snapshot as a line of JSON")

    def run(options: argparse.Namespace) -> int:
        try:
            options.links = _links(options.links, token_stdin=options.token_stdin)
        except ValueError as error:
            parser.error(str(error))
        return _run_command(name)(options)

    parser.set_defaults(run=run)


def _add_token(token: argparse.ArgumentParser) -> None:
    token.add_argument("job_id", type=UUID, metavar="JOB_ID")
    token.add_argument("--kind", type=arguments.kind, required=True, help="the job's kind, which its page shows")
    token.add_argument(
        "--watch-only", action="store_true", help="issue a token that cannot cancel the job, for sharing"
    )
    tokens.add_options(token, "lifetime of the token (default: 7 days)")
    token.set_defaults(run=_token)


def _run_command(name: str) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        from headway.cli import job_commands

        return job_commands.run(getattr(job_commands, name), options)

    return run


def _links(texts: Sequence[str], *, token_stdin: bool) -> list[Link]:
    """Parse links; raise ValueError if one is not valid."""
    if token_stdin and "-" in texts:
        raise ValueError("stdin can contain links or a token, but not both")
    token = read_stdin() if token_stdin else variable("HEADWAY_TOKEN")
    return [Link.parse(link, token) for text in texts for link in (read_stdin().split() if text == "-" else [text])]


def _token(options: argparse.Namespace) -> None:
    now = Timestamp.now()
    grant = Grant(
        job_id=options.job_id,
        kind=options.kind,
        submitted_at=now,
        expires_at=now.after(options.ttl),
        scope=frozenset({WATCH} if options.watch_only else {WATCH, CANCEL}),
    )
    print(tokens.TokenIssuer(options.key, options.link).issue(grant))
