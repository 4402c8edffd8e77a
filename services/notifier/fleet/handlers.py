"""The handlers of workers and kinds: `POST /workers` for workers, and the lists of both for operators."""

from __future__ import annotations

import structlog
from aiohttp import web
from redis.exceptions import RedisError

from headway.contracts import Timestamp, encode
from headway.details import MAX_WORKER_BYTES, WorkerInfo
from headway.fleet import Worker
from headway.grants import DETAILS, OPERATE
from headway.labels import ALL_JOBS

from ...runtime.auth import require_report_key
from ...runtime.errors import Forbidden, ServiceUnavailable
from ...runtime.request import JSON, bearer_token, read_json_body
from ...runtime.settings import ReloadingFile
from ..records.clock import RedisClock
from ..transports.auth import TokenAuth, unavailable_without_store
from .kinds import KindReader
from .workers import SeenWorker, WorkerStore

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_BODY_BYTES = 2 * MAX_WORKER_BYTES  # the schemas, and the names of a thousand kinds
HEADERS = {"Cache-Control": "no-store"}


class WorkerHandler:
    """Receives the workers that post themselves."""

    def __init__(self, workers: WorkerStore, keys: ReloadingFile[tuple[str, ...]]) -> None:
        self._workers = workers
        self._keys = keys

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the internal listener."""
        return [web.post("/workers", self.post)]

    async def post(self, request: web.Request) -> web.Response:
        """Keep a worker for some seconds."""
        require_report_key(bearer_token(request), self._keys.value)
        info = await read_json_body(request, WorkerInfo, MAX_BODY_BYTES)
        try:
            await self._workers.put(info)
        except (RedisError, OSError) as error:
            log.debug("worker_not_kept", error=type(error).__name__)
            raise ServiceUnavailable("Redis is unavailable; post the worker again.", retry_after_s=1) from error
        return web.Response(status=204)


class FleetHandler:
    """Answers operators: which workers run, and how the kinds of jobs do."""

    def __init__(self, workers: WorkerStore, kinds: KindReader, clock: RedisClock, auth: TokenAuth) -> None:
        self._workers = workers
        self._kinds = kinds
        self._clock = clock
        self._auth = auth

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [web.get("/live/workers", self.list_workers), web.get("/live/kinds", self.list_kinds)]

    async def list_workers(self, request: web.Request) -> web.Response:
        """Answer with the workers that were seen in the last seconds."""
        self._authorize(request, OPERATE)
        with unavailable_without_store():
            workers = await self._workers.read()
        return self._respond({"workers": list(map(_to_worker, workers))})

    async def list_kinds(self, request: web.Request) -> web.Response:
        """Answer with the statistics of all kinds."""
        self._authorize(request, DETAILS)
        with unavailable_without_store():
            kinds, complete = await self._kinds.read()
        return self._respond({"kinds": kinds, "complete": complete})

    def _authorize(self, request: web.Request, scope: str) -> None:
        """Check that a request has a list token for all jobs, with a scope."""
        if self._auth.authorize_list(request, scope).filter != ALL_JOBS:
            raise Forbidden("This needs a list token without a filter.")

    def _respond(self, fields: dict[str, object]) -> web.Response:
        now: Timestamp = self._clock.now()
        return web.Response(body=encode({"now": now, **fields}), content_type=JSON, headers=HEADERS)


def _to_worker(worker: SeenWorker) -> Worker:
    info = worker.info
    return Worker(
        id=info.id,
        host=info.host,
        version=info.version,
        queue=info.queue,
        slots=info.slots,
        running=info.running,
        kinds=tuple(kind.kind for kind in info.kinds),
        queue_depth=info.queue_depth,
        seen_at=worker.seen_at,
    )
