"""The commands `headway poison list | show | redrive | discard`.

The Azure SDK is imported when a command runs. A message can contain any text, so control characters are replaced or
escaped in the output.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from msgspec import Struct

from headway.cli import queue_config, tokens
from headway.cli.durations import duration_text
from headway.cli.text import printable, printable_json
from headway.contracts import JobMessage, Timestamp, encode, truncate
from headway.tokens import Grant

if TYPE_CHECKING:
    from headway.azure.poison_queue import PoisonQueue
    from headway.azure.poisoned_job import PoisonedJob

INTERRUPTED = 130  # the exit code
MAX_PROBLEM_LENGTH = 200
ID_HELP = "the ID of a job, or of a message without a job ID"
PoisonAction = Callable[["PoisonQueue", argparse.Namespace], Awaitable[int]]


class ListRow(Struct, kw_only=True):
    """A poisoned job in the output of `list --json`."""

    id: UUID | None
    message_id: str
    kind: str | None = None
    name: str | None = None
    generation: int | None = None
    max_attempts: int | None = None
    submitted_at: Timestamp | None = None
    poisoned_at: Timestamp
    messages: int
    problem: str | None


class RedriveOutput(Struct):
    """A redriven job in the output of `redrive --json`."""

    id: UUID
    kind: str
    generation: int
    expires_at: Timestamp
    token: str | None
    link: str | None


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the commands and their options."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = _add(commands, "list", "list the jobs on the poison queue, one per line", _list_jobs)
    listing.add_argument("--json", action="store_true", help="print a line of JSON for each job")
    _add(commands, "show", "print a message with its payload", _show).add_argument("id", metavar="ID", help=ID_HELP)
    _add(commands, "discard", "delete a job's messages", _discard).add_argument("id", metavar="ID", help=ID_HELP)

    redrive = _add(commands, "redrive", "run a job again with all its attempts, and print a token", _redrive)
    redrive.add_argument("id", nargs="?", metavar="ID", help=ID_HELP)
    redrive.add_argument(
        "--all", action="store_true", help="redrive all readable jobs; prints a line with ID and token for each"
    )
    tokens.add_options(redrive, "lifetime of the job and its token from now on (default: 7 days)")
    redrive.add_argument("--no-token", action="store_true", help="print only the ID; no key is needed")
    redrive.add_argument("--json", action="store_true", help="print a line of JSON for each job")
    redrive.set_defaults(run=lambda options: _run_redrive(redrive, options))


def _add(commands: Any, name: str, help_text: str, action: PoisonAction) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_text)
    parser.add_argument("--queue", metavar="NAME", help="the name of the jobs queue (default: $QUEUE_NAME, or jobs)")
    parser.set_defaults(run=lambda options: _run(action, options))
    return parser


def _run_redrive(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Check the options and load the key before anything is changed."""
    if (options.id is None) != options.all:
        parser.error("expected either an ID or --all")
    if not 0 < options.ttl < float("inf"):
        parser.error("argument --ttl: expected a positive number of seconds")
    if options.no_token and options.link is not None:
        parser.error("argument --link: not allowed with --no-token, because a link contains a token")
    try:
        options.issuer = None if options.no_token else tokens.TokenIssuer(options.key, options.link)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load the key that signs tokens (--no-token works without a key): {error}") from error
    return _run(_redrive, options)


def _run(action: PoisonAction, options: argparse.Namespace) -> int:
    """Open the queue, run an action and return its exit code; print an error of the queue as one line."""
    from azure.core.exceptions import AzureError

    from headway.azure.poison_queue import PoisonQueue
    from headway.client.connection_errors import connection_problem

    config = queue_config.find_queue(os.environ, options.queue)

    async def run_action() -> int:
        _cancel_on_termination()
        async with PoisonQueue.connect(*config) as poison:
            try:
                return await action(poison, options)
            finally:
                if poison.hidden:
                    _print_error(f"another command has taken about {poison.hidden} more messages; try again later")

    try:
        return asyncio.run(run_action())
    except asyncio.CancelledError:
        return INTERRUPTED
    except AzureError as error:
        cause = error.inner_exception
        problem = connection_problem(cause, "") if isinstance(cause, OSError) else error.message
        _print_error(problem.partition("\n")[0] or type(error).__name__)
        return 1


def _cancel_on_termination() -> None:
    """Cancel the command on SIGTERM and SIGHUP as on Ctrl-C, so that it releases its messages."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101
    with suppress(RuntimeError):  # signals can be handled in the main thread only
        for signal_number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(signal_number, task.cancel)


def _print_error(error: object) -> None:
    print(f"headway: {printable(str(error))}", file=sys.stderr)


async def _list_jobs(poison: PoisonQueue, options: argparse.Namespace) -> int:
    for job in await poison.peek():
        print(printable_json(encode(_row(job)).decode()) if options.json else _line(job))
    return 0


def _row(job: PoisonedJob) -> ListRow:
    latest, message = job.latest, job.latest.message
    row = ListRow(
        id=latest.job_id,
        message_id=latest.received.id,
        poisoned_at=latest.received.inserted_at,
        messages=len(job.messages),
        problem=latest.problem,
    )
    if message is not None:
        row.kind, row.generation, row.max_attempts = message.kind, message.generation, message.max_attempts
        row.submitted_at = message.submitted_at
        row.name = None if message.labels is None else message.labels.name
    return row


def _line(job: PoisonedJob) -> str:
    latest, message = job.latest, job.latest.message
    if message is None:
        parts = [f"{job.id} unreadable: {truncate(latest.problem or '', MAX_PROBLEM_LENGTH)}"]
    else:
        parts = [f"{job.id} {message.kind}", f"generation {message.generation}"]
        if message.labels is not None and message.labels.name is not None:
            parts.insert(1, message.labels.name)
        if message.max_attempts is not None:
            parts.append(f"up to {message.max_attempts} attempts")
        if message.submitted_at is not None:
            parts.append(f"submitted {message.submitted_at}")
    parts.append(f"poisoned {duration_text(latest.received.queue_time() - latest.received.inserted_at)} ago")
    if len(job.messages) > 1:
        parts.append(f"{len(job.messages)} messages")
    return printable(", ".join(parts))


async def _show(poison: PoisonQueue, options: argparse.Namespace) -> int:
    job = _find_job(await poison.peek(), options.id)
    selected = next((message for message in job.messages if message.received.id == options.id), job.latest)
    if selected.message is None:
        print("\n".join(map(printable, selected.received.text.splitlines())))
    else:
        print(printable_json(msgspec.json.format(encode(selected.message), indent=2).decode()))
    return 0


async def _discard(poison: PoisonQueue, options: argparse.Namespace) -> int:
    async with poison.jobs() as jobs:
        job = _find_job(jobs, options.id)
        await poison.discard(job)
    print(f"discarded {job.id}, {len(job.messages)} message{'s' * (len(job.messages) > 1)}")
    return 0


async def _redrive(poison: PoisonQueue, options: argparse.Namespace) -> int:
    from headway.azure.poison_queue import for_each_limited
    from headway.azure.poisoned_job import CannotRedrive

    exit_code = 0

    async def redrive(job: PoisonedJob) -> None:
        nonlocal exit_code
        try:
            message = await poison.redrive(job, options.ttl)
        except CannotRedrive as error:  # continue with the other jobs
            _print_error(error)
            exit_code = 1
        else:
            print(_redrive_output(message, options), flush=True)

    async with poison.jobs() as jobs:
        await for_each_limited(jobs if options.all else [_find_job(jobs, options.id)], redrive)
    return exit_code


def _redrive_output(message: JobMessage, options: argparse.Namespace) -> str:
    """Return the line to print for a redriven job.

    It is JSON with `--json`, the job's ID with `--no-token`, a link with `--link`, and a token otherwise; with `--all`
    the job's ID precedes the token.
    """
    assert message.submitted_at is not None  # noqa: S101 - set by PoisonedJob.redriven_text
    assert message.expires_at is not None  # noqa: S101
    issuer: tokens.TokenIssuer | None = options.issuer
    grant = Grant(
        job_id=message.id, kind=message.kind, submitted_at=message.submitted_at, expires_at=message.expires_at
    )
    issued = None if issuer is None else issuer.issue(grant)
    if options.json:
        token, link = issued and issued.rpartition("#")[2], issued if options.link else None
        output = RedriveOutput(message.id, message.kind, message.generation, message.expires_at, token, link)
        return printable_json(encode(output).decode())
    if issued is None:
        return str(message.id)
    return f"{message.id} {issued}" if options.all and not options.link else issued


def _find_job(jobs: list[PoisonedJob], text: str) -> PoisonedJob:
    for job in jobs:
        if job.matches(text):
            return job
    raise ValueError(f"no poison message of job {printable(text)}")
