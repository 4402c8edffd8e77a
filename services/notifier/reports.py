"""`POST /reports`: a batch of reports in, a verdict for each out."""

from __future__ import annotations

from typing import Annotated

import structlog
from aiohttp import web
from msgspec import Meta
from redis.exceptions import RedisError

from headway.contracts import BATCH_BYTES, REPORTS_PER_BATCH, RESULT_BYTES, JobReport, encode
from services.notifier import metrics
from services.notifier.records import Records
from services.problems import Unauthorized, Unavailable, Unprocessable, bearer, known_key, read_body, read_contract
from services.settings import WatchedFile

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Batch = Annotated[list[JobReport], Meta(min_length=1, max_length=REPORTS_PER_BATCH)]
RETRY_AFTER_S = 1


class Reports:
    """Takes what workers report."""

    def __init__(self, records: Records, keys: WatchedFile[tuple[str, ...]]) -> None:
        self._records = records
        self._keys = keys

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the internal listener."""
        return [web.post("/reports", self.take)]

    async def take(self, request: web.Request) -> web.Response:
        """Pass a batch through the gate; any doubt about its outcome is a 503, and the worker sends it again."""
        if not known_key(bearer(request), self._keys.value):
            raise Unauthorized("Send one of the report keys: Authorization: Bearer <key>.")
        reports = read_batch(await read_body(request, BATCH_BYTES))
        try:
            verdicts = await self._records.apply(reports)
        except (RedisError, OSError) as error:
            log.warning("reports_in_doubt", error=type(error).__name__, count=len(reports))
            raise Unavailable("The records are away; send the batch again.", retry_after_s=RETRY_AFTER_S) from error
        for verdict in verdicts:
            metrics.REPORTS.labels(verdict.reason or "accepted").inc()
        return web.Response(body=encode(verdicts), content_type="application/json")


def read_batch(body: bytes) -> list[JobReport]:
    """Read a batch; a Problem names the element and the field that do not fit."""
    reports: list[JobReport] = read_contract(body, Batch)
    for index, report in enumerate(reports):
        if len(report.result) > RESULT_BYTES:
            raise Unprocessable(f"Expected a result of at most {RESULT_BYTES} bytes.", field=f"[{index}].result")
    return reports
