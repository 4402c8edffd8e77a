"""The systems that are compared: the commands of their workers and clients."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from dev import node
from dev.environment import LOCAL, ROOT, SetupError

PEERS = "bench.worker.peers"
PYTHON = sys.executable
PEERS_PYTHON = str(ROOT / ".venv-bench/bin/python")
BULLMQ = str(ROOT / "bench/node/bullmq.mjs")
CONCURRENCY = 32
IN_FLIGHT = 1_000
LEASE_S = 600  # as in WebJobs: Azurite on a busy machine cannot renew a thousand leases twice a minute
HEADWAY, BARE = "Headway", "bare SDK loop"


class System(NamedTuple):
    """A worker and its clients; its concurrency is appended to `worker` as the last argument."""

    name: str
    worker: tuple[str, ...]
    client: tuple[str, ...]
    public_client: tuple[str, ...] = ()  # submits through the public interface; empty if `client` does so
    queue: str = ""  # in Azurite
    database: int = 0  # in Valkey
    concurrency: int = CONCURRENCY
    steps: tuple[str, ...] = ("work", "flight")  # the measurements in which it takes part

    @property
    def command(self) -> tuple[str, ...]:
        """The worker's command."""
        return self.worker if self.name == HEADWAY else (*self.worker, str(self.concurrency))

    def environment(self, valkey_port: str) -> dict[str, str]:
        """Return the environment variables of worker and clients."""
        return {
            "WORKER_JOBS": "bench.worker.jobs",
            "WORKER_CONCURRENCY": str(self.concurrency),
            "LEASE_S": str(LEASE_S),
            "QUEUE_NAME": self.queue,
            "BENCH_REDIS_URL": f"redis://{LOCAL}:{valkey_port}/{self.database}",
        }


def systems() -> list[System]:
    """Return the systems, in the order of the table.

    Raises:
        SetupError: Node.js is not installed.
    """
    found = node.find_node()
    if found is None:
        raise SetupError("Node.js is not installed: run `make bench-worker`, which installs it")
    client = (PYTHON, "-m", f"{PEERS}.headway_client")
    arq = (PEERS_PYTHON, "-m", f"{PEERS}.arq_jobs")
    bullmq = (found.node, BULLMQ)
    return [
        System(HEADWAY, (PYTHON, "-m", "services.worker"), (*client, "queue"), (*client, "submitter"), "jobs"),
        System(BARE, (PYTHON, "-m", f"{PEERS}.bare"), (*client, "queue"), queue="bare", steps=("work",)),
        _celery("Celery, prefork", "prefork", 1, concurrency=os.cpu_count() or 1),
        _celery("Celery, solo", "solo", 2, concurrency=1),
        _celery("Celery, gevent", "gevent", 3, concurrency=IN_FLIGHT, step="flight"),
        System("arq", arq, arq, database=4),
        System("BullMQ", bullmq, bullmq, database=5),
    ]


def _celery(name: str, pool: str, database: int, *, concurrency: int, step: str = "work") -> System:
    app = ("--app", f"{PEERS}.celery_tasks", "worker", "--pool", pool, "--concurrency")
    client = (PEERS_PYTHON, "-m", f"{PEERS}.celery_tasks")
    return System(
        name, (PEERS_PYTHON, "-m", "celery", *app), client, database=database, concurrency=concurrency, steps=(step,)
    )
