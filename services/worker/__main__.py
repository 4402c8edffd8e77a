"""`python -m services.worker`; with `--reload`, it starts anew when its code has changed."""

import argparse
from functools import partial

from services.runtime.service import run
from services.worker.app import worker
from services.worker.reload import CodeReloader
from services.worker.settings import WorkerSettings

if __name__ == "__main__":
    parser = argparse.ArgumentParser("services.worker", description=__doc__)
    parser.add_argument("--reload", action="store_true", help="for development: start anew when the code has changed")
    reload = CodeReloader() if parser.parse_args().reload else None
    run(WorkerSettings, partial(worker, reload=reload))
    if reload is not None:
        reload.exec_self()
