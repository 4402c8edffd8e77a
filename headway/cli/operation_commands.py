"""The commands that run jobs again or erase them: `headway redrive`, `rerun`, `erase` and `bulk`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, get_args
from uuid import UUID

from headway.cli import arguments, client_command, list_commands
from headway.cli.text import printable
from headway.client.links import linked_job_id
from headway.contracts import encode
from headway.details import BulkAction, BulkPreview

if TYPE_CHECKING:
    from headway.client import Client

EPILOG = "The API key needs the role operate; or pass a token with the scope operate."
CONFIRMATION = ("y", "yes")
UNCONFIRMED = 1  # the exit code


def add_commands(commands: Any) -> None:
    """Add the commands and their options."""
    redrive = _add(commands, "redrive", "run ended jobs again under the same IDs", _for_each(_redrive), count="+")
    redrive.add_argument("--from-start", action="store_true", help="forget the checkpoint")

    rerun = _add(commands, "rerun", "submit a job again as a new job, and print its link", _rerun)
    rerun.add_argument(
        "--payload", type=arguments.payload, metavar="JSON", help="another payload: JSON, @FILE, or @- for stdin"
    )
    rerun.add_argument("--watch", action="store_true", help="watch the new job until it ends")
    rerun.add_argument("--json", action="store_true", help="print the receipt, or each snapshot, as a line of JSON")

    _add_idempotency_key(rerun)

    _add(commands, "erase", "remove the results, logs and payloads of ended jobs", _for_each(_erase), count="+")
    _add_bulk(commands)


def _add_bulk(commands: Any) -> None:
    bulk = commands.add_parser("bulk", help="redrive, cancel or rerun all jobs that match", epilog=EPILOG)
    bulk.add_argument("action", choices=get_args(BulkAction), help="by default, redrive acts on failed jobs")
    list_commands.add_query_options(bulk)
    bulk.add_argument("--dry-run", action="store_true", help="print how many jobs match, and do nothing")
    bulk.add_argument("--yes", action="store_true", help="do not ask")
    bulk.add_argument("--json", action="store_true", help="print lines of JSON")
    _add_idempotency_key(bulk)
    arguments.add_submitter_options(bulk)
    arguments.add_token_option(bulk, "with the scope operate")
    bulk.set_defaults(run=_run_bulk)


def _add(
    commands: Any,
    name: str,
    help_text: str,
    command: Callable[[Client, argparse.Namespace], Awaitable[int | None]],
    count: str | None = None,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_text, epilog=EPILOG)
    more = {} if count is None else {"nargs": count}
    parser.add_argument("job", metavar="JOB", help=client_command.JOB_HELP, **more)  # type: ignore[arg-type]
    arguments.add_submitter_options(parser)
    arguments.add_token_option(parser, "with the scope operate")
    parser.set_defaults(run=lambda options: client_command.run(command, options))
    return parser


def _add_idempotency_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--idempotency-key", metavar="KEY", help="a command with the same key is the same job (default: a random one)"
    )


def _for_each(
    command: Callable[[Client, UUID, argparse.Namespace, str | None], Awaitable[str]],
) -> Callable[[Client, argparse.Namespace], Awaitable[int]]:
    """Return a command that goes on with the other jobs if it fails for one."""

    async def run(client: Client, options: argparse.Namespace) -> int:
        from headway.client import RequestFailed

        token, exit_code = arguments.token(options), 0
        for text in options.job:
            try:
                print(await command(client, await _find_id(client, text, token), options, token), flush=True)
            except (RequestFailed, ValueError) as error:
                print(f"headway: {printable(text.partition('#')[0])}: {error}", file=sys.stderr)
                exit_code = 1
        return exit_code

    return run


async def _redrive(client: Client, job_id: UUID, options: argparse.Namespace, token: str | None) -> str:
    redriven = await client.redrive(job_id, from_start=options.from_start, token=token)
    return f"redriven {redriven.id}, generation {redriven.generation}"


async def _erase(client: Client, job_id: UUID, _options: argparse.Namespace, token: str | None) -> str:
    await client.erase(job_id, token=token)
    return f"erased {job_id}"


async def _rerun(client: Client, options: argparse.Namespace) -> int | None:
    from headway.cli.job_commands import watch_all

    token = arguments.token(options)
    payload = {} if options.payload is None else {"payload": options.payload}
    job_id, key = await _find_id(client, options.job, token), options.idempotency_key
    receipt = await client.rerun(job_id, **payload, idempotency_key=key, token=token)
    if options.watch:
        return await watch_all(client, [receipt], options)
    print(encode(receipt).decode() if options.json else receipt.link, flush=True)
    return None


async def _find_id(client: Client, text: str, token: str | None) -> UUID:
    """Return the id of the job that an argument names. The token of a link does not allow to operate."""
    if "/" in text:
        return linked_job_id(text)
    job = await client_command.find_job(client, text, token)
    return job if isinstance(job, UUID) else job.id


def _run_bulk(options: argparse.Namespace) -> int:
    """Preview the action, ask, and run it; the question is asked while no event loop runs, so that Ctrl-C ends it."""
    if not (options.yes or options.dry_run or sys.stdin.isatty()):
        raise ValueError("pass --yes to act on the jobs, or --dry-run to see how many they are")
    exit_code = client_command.run(_preview_bulk, options)
    if exit_code or options.dry_run or not options.count:
        return exit_code
    if not (options.yes or _confirmed(f"{options.action.capitalize()} them? [y/N] ")):
        return UNCONFIRMED
    return client_command.run(_bulk, options)


def _confirmed(question: str) -> bool:
    """Ask a question; the end of stdin, such as Ctrl-D, means no."""
    try:
        return input(question).strip().lower() in CONFIRMATION
    except EOFError:
        print(file=sys.stderr)
        return False


async def _preview_bulk(client: Client, options: argparse.Namespace) -> None:
    options.token = arguments.token(options)  # stdin can be read once
    preview = await client.preview_bulk(options.action, token=options.token, **list_commands.query(options))
    options.count = preview.count
    if options.json:
        print(encode(preview).decode(), flush=True)
    else:
        print(_preview_text(options.action, preview), file=sys.stdout if options.dry_run else sys.stderr, flush=True)


def _preview_text(action: BulkAction, preview: BulkPreview) -> str:
    count = f"{preview.count:,} job{'s' * (preview.count != 1)}"
    lines = [f"{action}: {count}" if preview.complete else f"{action}: {count} or more"]
    for job in preview.examples:
        parts = (f"{job.kind} {job.id} {job.status}", job.name, job.error_type)
        lines.append("  " + printable(", ".join(part for part in parts if part)))
    if preview.count > len(preview.examples) > 0:
        lines.append("  …")
    return "\n".join(lines)


async def _bulk(client: Client, options: argparse.Namespace) -> int:
    from headway.cli.job_commands import watch_all

    key, query = options.idempotency_key, list_commands.query(options)
    receipt = await client.bulk(options.action, idempotency_key=key, token=options.token, **query)
    return await watch_all(client, [receipt], options)
