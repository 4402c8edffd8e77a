"""The commands `headway poison list | show | redrive | discard`.

The queue's client is imported when a command runs. Messages may contain any text, so output is made printable first.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from msgspec import Struct

from headway.cli import queue_config, tokens
from headway.cli.text import printable, printable_json
from headway.contracts import DEFAULT_ATTEMPTS, JobMessage, Timestamp, encode, truncate
from headway.tokens import Grant

if TYPE_CHECKING:
    from headway.azure.poison_queue import PoisonedJob, PoisonQueue

MAX_PROBLEM_LENGTH = 200
ID = "a job's id, or a message's where it has none"
DURATION_UNITS = ((86_400, "days"), (3_600, "h"), (60, "min"), (1, "s"))
PoisonAction = Callable[["PoisonQueue", argparse.Namespace], Awaitable[int]]


class ListRow(Struct, kw_only=True):
    """A poisoned job in the output of `list --json`."""

    id: UUID | None
    message_id: str
    kind: str | None = None
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
    listing = _add(commands, "list", "print a line for each job", _list_jobs)
    listing.add_argument("--json", action="store_true", help="print lines of JSON")
    _add(commands, "show", "print a message, its payload too", _show).add_argument("id", metavar="ID", help=ID)
    _add(commands, "discard", "remove a job's messages", _discard).add_argument("id", metavar="ID", help=ID)

    redrive = _add(commands, "redrive", "let a job run again, with all its attempts, and print a token", _redrive)
    redrive.add_argument("id", nargs="?", metavar="ID", help=ID)
    redrive.add_argument(
        "--all", action="store_true", help="all jobs that can be read; prints a line with id and token for each"
    )
    tokens.add_options(redrive, "how long the job and its token live from now on (7 days)")
    redrive.add_argument("--no-token", action="store_true", help="print the id alone; no key is needed")
    redrive.add_argument("--json", action="store_true", help="print lines of JSON")
    redrive.set_defaults(run=lambda options: _run_redrive(redrive, options))


def _add(commands: Any, name: str, told: str, act: PoisonAction) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=told)
    parser.add_argument("--queue", metavar="NAME", help="the queue of jobs (default: $QUEUE_NAME, or jobs)")
    parser.set_defaults(run=lambda options: _run(act, options), extra="queue")
    return parser


def _run_redrive(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Check the options and load the key before anything is changed."""
    if (options.id is None) != options.all:
        parser.error("expected either an ID or --all")
    if not 0 < options.ttl < float("inf"):
        parser.error("argument --ttl: expected seconds")
    if options.no_token and options.link is not None:
        parser.error("argument --link: a link has a token")
    try:
        options.mint = None if options.no_token else tokens.TokenIssuer(options.key, options.link)
    except (OSError, ValueError) as error:
        raise ValueError(f"no key to sign tokens with, and without --no-token one is needed: {error}") from error
    return _run(_redrive, options)


def _run(act: PoisonAction, options: argparse.Namespace) -> int:
    """Open the queue and run an action; print an error of the queue as one line and return an exit code."""
    from azure.core.exceptions import AzureError

    from headway.azure.poison_queue import PoisonQueue

    access = queue_config.find_queue(os.environ, options.queue)

    async def session() -> int:
        async with PoisonQueue.connect(*access) as poison:
            return await act(poison, options)

    try:
        return asyncio.run(session())
    except AzureError as error:
        _print_error(error.message.partition("\n")[0] or type(error).__name__)
        return 1


def _print_error(trouble: object) -> None:
    print(f"headway: {printable(str(trouble))}", file=sys.stderr)


async def _list_jobs(poison: PoisonQueue, options: argparse.Namespace) -> int:
    async with poison.jobs() as cases:
        pass
    for case in cases:
        print(printable_json(encode(_row(case)).decode()) if options.json else _line(case))
    return 0


def _row(case: PoisonedJob) -> ListRow:
    chief, message = case.latest, case.latest.message
    row = ListRow(
        id=chief.job_id,
        message_id=chief.received.id,
        poisoned_at=chief.received.inserted_at,
        messages=len(case.messages),
        problem=chief.problem,
    )
    if message is not None:
        row.kind, row.generation, row.max_attempts = message.kind, message.generation, message.max_attempts
        row.submitted_at = message.submitted_at
    return row


def _line(case: PoisonedJob) -> str:
    chief, message = case.latest, case.latest.message
    if message is None:
        parts = [f"{case.id} unreadable: {truncate(chief.problem or '', MAX_PROBLEM_LENGTH)}"]
    else:
        parts = [f"{case.id} {message.kind}", f"generation {message.generation}"]
        if (
            message.max_attempts != DEFAULT_ATTEMPTS
        ):  # 5 stands for the kind's own number, which the message does not contain
            parts.append(f"up to {message.max_attempts} attempts")
        if message.submitted_at is not None:
            parts.append(f"submitted {message.submitted_at}")
    parts.append(f"poisoned {duration_text(Timestamp.now() - chief.received.inserted_at)} ago")
    if len(case.messages) > 1:
        parts.append(f"{len(case.messages)} messages")
    return printable(", ".join(parts))


def duration_text(milliseconds: int) -> str:
    """Format a duration in the largest unit of which it has at least two."""
    seconds = max(0, milliseconds // 1000)
    size, unit = next((one for one in DURATION_UNITS if seconds >= 2 * one[0]), DURATION_UNITS[-1])
    return f"{seconds // size} {unit}"


async def _show(poison: PoisonQueue, options: argparse.Namespace) -> int:
    async with poison.jobs() as cases:
        case = _find_job(cases, options.id)
    shown = next((one for one in case.messages if one.received.id == options.id), case.latest)
    if shown.message is None:
        print("\n".join(map(printable, shown.received.text.splitlines())))
    else:
        print(printable_json(msgspec.json.format(encode(shown.message), indent=2).decode()))
    return 0


async def _discard(poison: PoisonQueue, options: argparse.Namespace) -> int:
    async with poison.jobs() as cases:
        case = _find_job(cases, options.id)
        await poison.discard(case)
    print(f"discarded {case.id}, {len(case.messages)} message{'s' * (len(case.messages) > 1)}")
    return 0


async def _redrive(poison: PoisonQueue, options: argparse.Namespace) -> int:
    from headway.azure.poison_queue import CannotRedrive, for_each_limited

    code = 0

    async def redrive(case: PoisonedJob) -> None:
        nonlocal code
        try:
            message = await poison.redrive(case, Timestamp.now().after(options.ttl))
        except CannotRedrive as trouble:  # other jobs may still be redriven
            _print_error(trouble)
            code = 1
        else:
            print(_redrive_output(message, options), flush=True)

    async with poison.jobs() as cases:
        await for_each_limited(cases if options.all else [_find_job(cases, options.id)], redrive)
    return code


def _redrive_output(message: JobMessage, options: argparse.Namespace) -> str:
    """Return the output for a script: the token or link, after the id if there are several jobs."""
    assert message.submitted_at is not None  # noqa: S101 - set by PoisonedJob.redriven_message
    assert message.expires_at is not None  # noqa: S101
    mint: tokens.TokenIssuer | None = options.mint
    granted = Grant(
        job_id=message.id, kind=message.kind, submitted_at=message.submitted_at, expires_at=message.expires_at
    )
    made = None if mint is None else mint.issue(granted)
    if options.json:
        token, link = made and made.rpartition("#")[2], made if options.link else None
        told = RedriveOutput(message.id, message.kind, message.generation, message.expires_at, token, link)
        return printable_json(encode(told).decode())
    if made is None:
        return str(message.id)
    return f"{message.id} {made}" if options.all and not options.link else made


def _find_job(cases: list[PoisonedJob], named: str) -> PoisonedJob:
    for case in cases:
        if case.matches(named):
            return case
    raise ValueError(f"no poison message of job {printable(named)}")
