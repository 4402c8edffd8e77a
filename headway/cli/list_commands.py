"""The commands `headway jobs` and `headway show`."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, get_args
from uuid import UUID

from headway.cli import arguments, client_command
from headway.cli.job_details import details_text, json_with_details
from headway.cli.text import job_line, json_line
from headway.client.links import Link
from headway.contracts import JobStatus, Timestamp
from headway.grants import READ_ALL

if TYPE_CHECKING:
    from headway.client import Client, JobDetails, JobQuery, ListedJob

DEFAULT_LIMIT = 50
MAX_PAGE_SIZE = 200
QUERY_FIELDS = ("status", "kind", "owner", "tag", "since", "until", "attempts_min", "error_type")
STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)


def add_commands(commands: Any) -> None:
    """Add the commands and their options."""
    epilog = "Any API key will do; or pass a list token."
    _add_jobs(commands.add_parser("jobs", help="list jobs, the newest first", epilog=epilog))
    _add_show(commands.add_parser("show", help="show everything about a job", epilog=epilog))


def _add_jobs(jobs: argparse.ArgumentParser) -> None:
    add_query_options(jobs)
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
    jobs.set_defaults(run=lambda options: client_command.run(_jobs, options))


def add_query_options(jobs: argparse.ArgumentParser) -> None:
    """Add the options that select jobs."""
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


def query(options: argparse.Namespace) -> JobQuery:
    """Return the query of the options that select jobs."""
    selected: JobQuery = {name: getattr(options, name) for name in QUERY_FIELDS}  # type: ignore[assignment]
    return selected


def _add_show(show: argparse.ArgumentParser) -> None:
    show.add_argument("job", metavar="JOB", help=client_command.JOB_HELP)
    show.add_argument("--json", action="store_true", help="print the snapshot as a line of JSON")
    arguments.add_submitter_options(show)
    arguments.add_token_option(show, "a list token or the job's")
    show.set_defaults(run=lambda options: client_command.run(_show, options))


def _statuses(text: str) -> list[str]:
    statuses = [status.strip() for status in text.split(",")]
    if unknown := [status for status in statuses if status not in STATUSES]:
        raise argparse.ArgumentTypeError(f"unknown status {unknown[0]!r}; expected {', '.join(STATUSES)}")
    return statuses


async def _jobs(client: Client, options: argparse.Namespace) -> None:
    selected = query(options)
    token = arguments.token(options) or await _issue_token(client, selected)
    get_page = partial(client.jobs_page, token, limit=min(options.limit, MAX_PAGE_SIZE), **selected)
    pages = [await get_page()]
    while (cursor := pages[-1].next) and sum(len(page.jobs) for page in pages) < options.limit:
        pages.append(await get_page(cursor=cursor))
    jobs = [job for page in pages for job in page.jobs]
    _print_jobs(jobs[: options.limit], pages[0].now, as_json=options.json)
    if not all(page.complete for page in pages):
        print("headway: the list may lack jobs, because the index is being rebuilt", file=sys.stderr)
    if cursor or len(jobs) > options.limit:
        print(f"headway: there are more jobs; --limit shows more than {options.limit}", file=sys.stderr)


async def _issue_token(client: Client, selected: JobQuery) -> str:
    """Return a token for all pages of a query, and for as few other jobs as possible."""
    from headway.client.job_queries import narrowest_token

    job_filter, scope = narrowest_token(selected)
    issued = await client.list_token(owner=job_filter.owner, tag=job_filter.tag, kind=job_filter.kind, scope=scope)
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
    job = await client_command.find_job(client, options.job, token)
    if isinstance(job, UUID) and token is None:
        token = (await client.list_token(scope=READ_ALL)).token
    snapshot = await client.get(job, token=token)
    details = await _find_details(client, job, token)
    print((json_with_details if options.json else details_text)(snapshot, details))


async def _find_details(client: Client, job: Link | UUID, token: str | None) -> JobDetails | None:
    """Return a job's details, None if they are not for this user or the notifier is of an older version."""
    from headway.client import InvalidToken, RequestFailed

    try:
        return await client.details(job, token=token if isinstance(job, UUID) else None)
    except (RequestFailed, InvalidToken):
        return None
