"""The systems that are compared: how each one's worker and clients are started."""

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
AT_ONCE = 32
IN_FLIGHT = 1_000
LEASE_S = 600  # as WebJobs has it: Azurite, on a busy machine, cannot renew a thousand leases twice a minute
HEADWAY, BARE = "Headway", "bare SDK loop"


class System(NamedTuple):
    """A worker and what enqueues for it; the last word of `worker` is how many jobs may run at once."""

    name: str
    worker: tuple[str, ...]
    client: tuple[str, ...]
    public_client: tuple[str, ...] = ()  # as everybody submits, where that is another way than `client`
    queue: str = ""  # of Azurite
    database: int = 0  # of Valkey
    at_once: int = AT_ONCE
    steps: tuple[str, ...] = ("work", "flight")  # what of it is measured

    @property
    def command(self) -> tuple[str, ...]:
        """The worker's command."""
        return self.worker if self.name == HEADWAY else (*self.worker, str(self.at_once))

    def environment(self, valkey_port: str) -> dict[str, str]:
        """Return what worker and clients need in their environment."""
        return {
            "WORKER_JOBS": "bench.worker.jobs",
            "WORKER_CONCURRENCY": str(self.at_once),
            "LEASE_S": str(LEASE_S),
            "QUEUE_NAME": self.queue,
            "BENCH_REDIS_URL": f"redis://{LOCAL}:{valkey_port}/{self.database}",
        }


def systems() -> list[System]:
    """Return the systems, in the order of the table."""
    found = node.find_node()
    if found is None:
        raise SetupError("There is no Node.js: `make bench-worker` installs one")
    client = (PYTHON, "-m", f"{PEERS}.headway_client")
    arq = (PEERS_PYTHON, "-m", f"{PEERS}.arq_jobs")
    bullmq = (found.node, BULLMQ)
    return [
        System(HEADWAY, (PYTHON, "-m", "services.worker"), (*client, "queue"), (*client, "submitter"), "jobs"),
        System(BARE, (PYTHON, "-m", f"{PEERS}.bare"), (*client, "queue"), queue="bare", steps=("work",)),
        _celery("Celery, prefork", "prefork", 1, at_once=os.cpu_count() or 1),
        _celery("Celery, solo", "solo", 2, at_once=1),
        _celery("Celery, gevent", "gevent", 3, at_once=IN_FLIGHT, step="flight"),
        System("arq", arq, arq, database=4),
        System("BullMQ", bullmq, bullmq, database=5),
    ]


def _celery(name: str, pool: str, database: int, *, at_once: int, step: str = "work") -> System:
    app = ("--app", f"{PEERS}.celery_tasks", "worker", "--pool", pool, "--concurrency")
    client = (PEERS_PYTHON, "-m", f"{PEERS}.celery_tasks")
    return System(name, (PEERS_PYTHON, "-m", "celery", *app), client, database=database, at_once=at_once, steps=(step,))
