"""The commands `headway submitter`, `worker` and `notifier`, which run a service."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HELP = {
    "submitter": "run the submitter, which serves the pages and puts jobs on the queue",
    "worker": "run a worker, which runs the handlers of jobs",
    "notifier": "run the notifier, which stores the state of jobs and sends it to clients",
}
EPILOG = "The settings are read from the environment. Exit codes: 0 stopped, 1 crashed, 2 invalid settings."


def add_commands(commands: Any) -> None:
    """Add a command for each service."""
    for name, help_text in HELP.items():
        parser: argparse.ArgumentParser = commands.add_parser(
            name, help=help_text, description=f"{help_text.capitalize()}.", epilog=EPILOG
        )
        parser.set_defaults(run=partial(_run_service, name), extra=name)
        if name == "worker":
            _add_worker_options(parser)


def _add_worker_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs",
        action="append",
        metavar="MODULES",
        help="modules and packages with jobs, separated by commas (default: $WORKER_JOBS)",
    )
    parser.add_argument("--reload", action="store_true", help="for development: restart when the code changes")
    parser.set_defaults(run=_run_worker)


def _run_worker(options: argparse.Namespace) -> None:
    """Run a worker that also finds modules in the current folder, as with `python -m`."""
    sys.path.insert(0, str(Path.cwd()))
    if options.jobs is not None:
        os.environ["WORKER_JOBS"] = ",".join(options.jobs)
    _run_service("worker", options, ["--reload"] if options.reload else [])


def _run_service(name: str, _options: argparse.Namespace, arguments: Sequence[str] = ()) -> None:
    """Run the main module of a service: of `headway.services` in an installed wheel, of `services` in a clone."""
    package = "headway.services" if find_spec("headway.services") else "services"
    sys.argv[1:] = arguments
    runpy.run_module(f"{package}.{name}", run_name="__main__", alter_sys=True)
