"""Plain HTTP: a job's snapshot with its version as the ETag, at once or when there is a newer one, and cancelling.

`Prefer: wait=30` (RFC 7240 §4.3) holds the answer back until there is something to tell. `POST /live/jobs` is the same
for many jobs in one request, for pages behind a proxy that lets neither sockets nor streams through.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import msgspec
from aiohttp import web

from headway.contracts import Timestamp
from headway.tokens import CANCEL
from services.notifier.hub import NONE, Snapshot, queued
from services.notifier.records import Records
from services.notifier.transports.access import Access, Asked, records_needed
from services.notifier.transports.outlet import Outlet, Outlets, problem
from services.runtime.errors import NotFound
from services.runtime.request import JSON

LONGEST_WAIT_S = 60
GATHER_S = 0.02  # what comes together is answered together
LOST = "What was known of this job is lost."
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})")
_TAG = re.compile(r'"(\d{1,16})"', re.ASCII)


class Held(Outlet):
    """A request whose answer is held back until there is something to tell."""

    transport = "poll"
    lasting = False

    def __init__(self, connection: asyncio.Transport, *, for_ending: bool) -> None:
        super().__init__(connection, None)
        self.newer: dict[str, Snapshot] = {}
        self.errors: list[dict[str, str]] = []
        self.told = asyncio.Event()
        self._for_ending = for_ending

    def push(self, job_id: str, snapshot: Snapshot) -> bool:
        """Take a newer snapshot: the answer."""
        self.newer[job_id] = snapshot
        self.told.set()
        return True

    def tell(self, job_id: str | None, code: str, message: str) -> None:
        """Take an error; a lost record is no news, lest its watcher asks again at once and for ever."""
        self.errors.append(problem(job_id, code, message))
        if code != "unknown":
            self.told.set()

    def caught_up(self, job_id: str, *, ended: bool) -> None:  # noqa: ARG002
        """Take that there is nothing newer: nor will there be soon of a job that has ended."""
        if ended and self._for_ending:
            self.told.set()

    def check(self) -> None:
        """Let go of a request whose sender has left."""
        if self.gone:
            self.told.set()

    async def end(self) -> None:
        """Answer what there is, since the service restarts."""
        self.told.set()


class Poll:
    """Answers whoever asks for jobs."""

    def __init__(self, outlets: Outlets, records: Records, access: Access) -> None:
        self._outlets = outlets
        self._records = records
        self._access = access

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [
            web.get("/live/jobs/{id}", self.one),
            web.post("/live/jobs", self.many),
            web.post("/live/jobs/{id}/cancel", self.cancel),
        ]

    async def one(self, request: web.Request) -> web.Response:
        """Answer the job's snapshot, or 304 when there is none newer than the caller's."""
        granted = self._access.granted_for(request)
        seen = [int(version) for version in _TAG.findall(request.headers.get("If-None-Match", ""))]
        asked = Asked(granted, max(seen, default=None))
        newer, errors = await self._find(request, [asked], for_ending=True)
        headers = {"Cache-Control": "private, no-cache"} | _applied(request)
        if not newer and errors:  # absence never replaces presence
            raise NotFound(errors[0]["message"], code=errors[0]["code"])
        if not newer:
            return self._last(web.Response(status=304, headers={"ETag": f'"{asked.version}"', **headers}))
        headers["ETag"] = f'"{newer[0].version}"'
        return self._last(web.Response(body=newer[0].text, content_type=JSON, headers=headers))

    async def many(self, request: web.Request) -> web.Response:
        """Answer those of the jobs that are newer than what the caller has seen of them."""
        asked, refused = await self._access.granted_many(request)
        wanted = [one.problem for one in refused]
        newer, errors = await self._find(request, asked, for_ending=False, at_once=bool(wanted))
        body = b'{"now":"%b","jobs":[%b],"errors":%b}' % (
            str(Timestamp.now()).encode(),
            b",".join(snapshot.text for snapshot in newer),
            msgspec.json.encode(wanted + errors),
        )
        headers = {"Cache-Control": "no-store"} | _applied(request)
        return self._last(web.Response(body=body, content_type=JSON, headers=headers))

    def _last(self, response: web.Response) -> web.Response:
        """End the connection behind an answer when this replica stops: a new one finds another replica."""
        if self._outlets.draining:
            response.force_close()
        return response

    async def _find(
        self, request: web.Request, asked: Sequence[Asked], *, for_ending: bool, at_once: bool = False
    ) -> tuple[list[Snapshot], list[dict[str, str]]]:
        """Return the snapshots newer than what was seen, and what is wrong; wait for the first as long as is wished."""
        newer, errors, ended = await self._look(asked)
        wait_s = _wait_s(request)
        connection = request.transport
        if newer or at_once or not wait_s or (for_ending and ended) or self._outlets.draining or connection is None:
            return newer, errors
        self._outlets.make_room()
        held = Held(connection, for_ending=for_ending)
        with self._outlets.open(held):
            for granted, version in asked:
                self._outlets.watch(held, granted, version)
            try:
                async with asyncio.timeout(wait_s):
                    await held.told.wait()
                    await asyncio.sleep(GATHER_S)
            except TimeoutError:
                pass
        return list(held.newer.values()), held.errors

    async def _look(self, asked: Sequence[Asked]) -> tuple[list[Snapshot], list[dict[str, str]], bool]:
        """Read the records once; tell also whether one of the jobs has ended."""
        with records_needed():
            texts = await self._records.read([str(one.granted.job_id) for one in asked])
        newer, errors, ended = [], [], False
        for (granted, version), text in zip(asked, texts, strict=True):
            snapshot = Snapshot.read(text)
            if snapshot is None and version:
                errors.append(problem(str(granted.job_id), "unknown", LOST))
                continue
            snapshot = snapshot or Snapshot(queued(granted))
            ended = ended or snapshot.ended
            if snapshot.version > (NONE if version is None else version):
                newer.append(snapshot)
        return newer, errors, ended

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel the job, or ask the worker that holds it to; answer its snapshot."""
        granted = self._access.granted_for(request, scope=CANCEL)
        with records_needed():
            snapshot = Snapshot.read(await self._records.cancel(granted)) or Snapshot(queued(granted))
        headers = {"ETag": f'"{snapshot.version}"', "Cache-Control": "no-store"}
        return web.Response(status=202, body=snapshot.text, content_type=JSON, headers=headers)


def _wait_s(request: web.Request) -> int:
    """Return how long the caller wishes to wait, within what proxies stand."""
    wished = _WAIT.search(request.headers.get("Prefer", ""))
    return min(LONGEST_WAIT_S, int(wished[1])) if wished else 0


def _applied(request: web.Request) -> dict[str, str]:
    wait_s = _wait_s(request)
    return {"Preference-Applied": f"wait={wait_s}"} if wait_s else {}
