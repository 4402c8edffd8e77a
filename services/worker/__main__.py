"""Run the worker; with `--reload`, restart it when its code has changed."""

import argparse
from functools import partial

from ..runtime.service import run
from .app import worker
from .reload import CodeReloader
from .settings import WorkerSettings

if __name__ == "__main__":
    parser = argparse.ArgumentParser(__package__, description=__doc__)
    parser.add_argument("--reload", action="store_true", help="for development: start anew when the code has changed")
    reload = CodeReloader() if parser.parse_args().reload else None
    run(WorkerSettings, partial(worker, reload=reload))
    if reload is not None:
        reload.exec_self()
