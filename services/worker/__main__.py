"""`python -m services.worker`."""

from services.chassis import run
from services.worker.app import worker
from services.worker.settings import WorkerSettings

if __name__ == "__main__":
    run(WorkerSettings, worker)
