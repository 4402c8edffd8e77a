"""What the commands that use the Python client share: they open it, find jobs, and print errors as one line.

The client is imported when a command runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from headway.cli import arguments
from headway.client.links import Link

if TYPE_CHECKING:
    from headway.client import Client

MIN_PREFIX_LENGTH = 4
MAX_SEARCHED_JOBS = 2_000  # for the beginning of an id
JOB_HELP = "the job's ID, the beginning of its ID, or a link to it"


def run(command: Callable[[Client, argparse.Namespace], Awaitable[int | None]], options: argparse.Namespace) -> int:
    """Run a command with a client of the submitter, and return its exit code."""
    from headway.cli import job_commands
    from headway.client import Client

    async def run_command(options: argparse.Namespace) -> int:
        async with Client(options.url, arguments.api_key(options)) as client:
            return await command(client, options) or job_commands.SUCCEEDED

    return job_commands.run(run_command, options)


async def find_job(client: Client, text: str, token: str | None) -> Link | UUID:
    """Return the link or the id for an argument; search the newest jobs for the beginning of an id.

    Raises:
        ValueError: the argument is not valid, or does not name one job.
    """
    if "/" in text:
        return Link.parse(text, token)
    try:
        return UUID(text)
    except ValueError:
        if len(text) < MIN_PREFIX_LENGTH:
            raise ValueError(f"expected at least {MIN_PREFIX_LENGTH} characters of an ID, not {text!r}") from None
    found = [
        job.id async for job in client.jobs(token, limit=MAX_SEARCHED_JOBS) if str(job.id).startswith(text.lower())
    ]
    if len(found) != 1:
        problem = "several jobs have an ID" if found else f"none of the newest {MAX_SEARCHED_JOBS:,} jobs has an ID"
        raise ValueError(f"{problem} that begins with {text}")
    return found[0]
