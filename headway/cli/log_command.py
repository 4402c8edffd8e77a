"""The command `headway logs`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any
from uuid import UUID

from headway.cli import arguments, client_command
from headway.cli.text import printable_text

if TYPE_CHECKING:
    from headway.client import Client


def add_commands(commands: Any) -> None:
    """Add the command and its options."""
    logs = commands.add_parser("logs", help="print what a job has logged, and follow it")
    logs.add_argument("job", metavar="JOB", help=client_command.JOB_HELP)
    logs.add_argument("-f", "--follow", action="store_true", help="print each piece as it comes, until the job ends")
    logs.add_argument(
        "--from",
        dest="offset",
        type=arguments.natural,
        default=0,
        metavar="BYTE",
        help="the byte offset to begin at (default: 0)",
    )
    logs.add_argument("--raw", action="store_true", help="print control characters, which may affect your terminal")
    arguments.add_submitter_options(logs)
    arguments.add_token_option(logs, "a list token or the job's")
    logs.set_defaults(run=lambda options: client_command.run(_logs, options))


async def _logs(client: Client, options: argparse.Namespace) -> None:
    token = arguments.token(options)
    job = await client_command.find_job(client, options.job, token)
    is_empty = True
    async for text in client.log(
        job, options.offset, follow=options.follow, token=token if isinstance(job, UUID) else None
    ):
        is_empty = False
        sys.stdout.write(text if options.raw else printable_text(text))
        sys.stdout.flush()
    if is_empty:
        print("headway: the job has logged nothing" + (" more" if options.offset else ""), file=sys.stderr)
