"""The commands `headway jobs` and `headway show`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, get_args
from uuid import UUID

from headway.cli import arguments
from headway.cli.job_details import details_text
from headway.cli.text import job_line, json_line
from headway.client.links import Link
from headway.contracts import JobStatus, Timestamp
from headway.grants import WATCH

if TYPE_CHECKING:
    from headway.client import Client, JobQuery, ListedJob

DEFAULT_LIMIT = 50
MAX_PAGE_SIZE = 200
MIN_PREFIX_LENGTH = 4
MAX_SEARCHED_JOBS = 2_000  # for the beginning of an id
QUERY_FIELDS = ("status", "kind", "owner", "tag", "since", "until", "attempts_min", "error_type")
STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)


def add_commands(commands: Any) -> None:
    """Add the commands and their options."""
    epilog = "The API key needs the role operate, unless you pass --owner, --tag or --kind; or pass a list token."
    _add_jobs(commands.add_parser("jobs", help="list jobs, the newest first", epilog=epilog))
    _add_show(commands.add_parser("show", help="show everything about a job"))


def _add_jobs(jobs: argparse.ArgumentParser) -> None:
    statuses = jobs.add_mutually_exclusive_group()
    statuses.add_argument(
        "--status", type=_statuses, metavar="STATUS", help=f"one or more of {', '.join(STATUSES)}, separated by commas"
    )
    statuses.add_argument("--failed", action="store_const", dest="status", const=["failed"], help="--status failed")
    jobs.add_argument("--since", type=arguments.time, metavar="TIME", help="RFC 3339, or how long ago: 30min, 12h, 7d")
    jobs.add_argument("--until", type=arguments.time, metavar="TIME", help="as for --since")
    jobs.add_argument("--kind", type=arguments.kind, metavar="KIND")
    jobs.add_argument("--owner", type=arguments.utf8, metavar="OWNER")
    jobs.add_argument("--tag", type=arguments.utf8, action="append", metavar="TAG", help="repeat it for several tags")
    jobs.add_argument(
        "--attempts-min", type=arguments.positive, metavar="N", help="jobs that needed N attempts or more"
    )
    jobs.add_argument(
        "--error-type", type=arguments.utf8, metavar="TYPE", help="the type of the error, as in ValueError"
    )
    jobs.add_argument(
        "--limit",
        type=arguments.positive,
        default=DEFAULT_LIMIT,
        metavar="N",
        help="maximum number of jobs (default: %(default)s)",
    )
    jobs.add_argument("--json", action="store_true", help="print each job's snapshot as a line of JSON")
    arguments.add_submitter_options(jobs)
    arguments.add_token_option(jobs, "a list token")
    jobs.set_defaults(run=lambda options: _run(_jobs, options))


def _add_show(show: argparse.ArgumentParser) -> None:
    show.add_argument("job", metavar="JOB", help="the job's ID, the beginning of its ID, or a link to it")
    show.add_argument("--json", action="store_true", help="print the snapshot as a line of JSON")
    arguments.add_submitter_options(show)
    arguments.add_token_option(show, "a list token or the job's")
    show.set_defaults(run=lambda options: _run(_show, options))


def _statuses(text: str) -> list[str]:
    statuses = [status.strip() for status in text.split(",")]
    if unknown := [status for status in statuses if status not in STATUSES]:
        raise argparse.ArgumentTypeError(f"unknown status {unknown[0]!r}; expected {', '.join(STATUSES)}")
    return statuses


def _run(command: Callable[[Client, argparse.Namespace], Awaitable[None]], options: argparse.Namespace) -> int:
    from headway.cli import job_commands
    from headway.client import Client

    async def run_command(options: argparse.Namespace) -> int:
        async with Client(options.url, arguments.api_key(options)) as client:
            await command(client, options)
        return job_commands.SUCCEEDED

    return job_commands.run(run_command, options)


async def _jobs(client: Client, options: argparse.Namespace) -> None:
    query: JobQuery = {name: getattr(options, name) for name in QUERY_FIELDS}  # type: ignore[assignment]
    token = arguments.token(options) or await _issue_token(client, query)
    get_page = partial(client.jobs_page, token, limit=min(options.limit, MAX_PAGE_SIZE), **query)
    pages = [await get_page()]
    while (cursor := pages[-1].next) and sum(len(page.jobs) for page in pages) < options.limit:
        pages.append(await get_page(cursor=cursor))
    jobs = [job for page in pages for job in page.jobs]
    _print_jobs(jobs[: options.limit], pages[0].now, as_json=options.json)
    if not all(page.complete for page in pages):
        print("headway: the list may lack jobs, because the index is being rebuilt", file=sys.stderr)
    if cursor or len(jobs) > options.limit:
        print(f"headway: there are more jobs; --limit shows more than {options.limit}", file=sys.stderr)


async def _issue_token(client: Client, query: JobQuery) -> str:
    """Return a token for all pages of a query, and for as few other jobs as possible."""
    from headway.client.job_queries import narrowest_token

    selected, scope = narrowest_token(query)
    issued = await client.list_token(owner=selected.owner, tag=selected.tag, kind=selected.kind, scope=scope)
    return issued.token


def _print_jobs(jobs: list[ListedJob], now: Timestamp, *, as_json: bool) -> None:
    """Print a table on a terminal, otherwise a line for each job."""
    if as_json or not sys.stdout.isatty():
        for job in jobs:
            print((json_line if as_json else job_line)(job))
    elif jobs:
        from headway.cli.job_table import print_table

        print_table(jobs, now)
    else:
        print("headway: no jobs", file=sys.stderr)


async def _show(client: Client, options: argparse.Namespace) -> None:
    token = arguments.token(options)
    if "/" in options.job:
        job = await client.get(Link.parse(options.job, token))
    else:
        job_id = await _find_id(client, options.job, token)
        token = token or (await client.job_token(job_id, scope=WATCH)).token
        job = await client.get(job_id, token=token)
    print((json_line if options.json else details_text)(job))


async def _find_id(client: Client, text: str, token: str | None) -> UUID:
    """Return the job's id; search the newest jobs for the beginning of an id."""
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
