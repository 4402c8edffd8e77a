"""Run the worker. With `--reload`, it restarts when its code changes."""

import argparse
from functools import partial

from ..runtime.service import run
from .app import worker
from .reload import CodeReloader
from .settings import WorkerSettings

if __name__ == "__main__":
    parser = argparse.ArgumentParser(__package__, description=__doc__)
    parser.add_argument("--reload", action="store_true", help="for development: restart when the code changes")
    reloader = CodeReloader() if parser.parse_args().reload else None
    run(WorkerSettings, partial(worker, reloader=reloader))
    if reloader is not None:
        reloader.exec_self()
