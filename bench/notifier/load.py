"""The load client: its command line, its results, and whether a result is valid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import aiohttp
import jwt
import msgspec
from msgspec import Struct

from bench.notifier.scenarios import Scenario
from bench.notifier.servers import CLIENT_CORE, ORIGIN, Server, SharedSetup, pinned_to_core
from bench.notifier.systems import LOAD, System
from bench.processes import Process
from dev.environment import LOCAL

FILLER_REPORTS = 40  # of 30 kB: more than a server and its kernel buffer for a slow consumer


class TurnResult(Struct, frozen=True, kw_only=True):
    """The load client's reply after a turn; the fields of other kinds of turns are None."""

    upgrade_us: float | None = None
    watch_us: float | None = None
    idle_bytes: float | None = None
    watched_bytes: float | None = None
    delivery_us: float | None = None
    report_us: float | None = None
    redis_us: float | None = None
    p50_us: int | None = None
    p99_us: int | None = None
    rate: float | None = None
    reported: int | None = None
    refused: int = 0
    delivered: int = 0
    expected: int = 0
    unwatching: int
    lost: int
    first_error: str

    def flaws(self) -> list[str]:
        """Return why the turn is invalid; an empty list if it is valid."""
        missing = self.expected - self.delivered
        counts = {
            "watchers are not watching": self.unwatching,
            "watchers were lost": self.lost,
            "reports were refused": self.refused,
            "deliveries are missing": max(0, missing),
            "deliveries were duplicates": max(0, -missing),
            "turn had no report": int(self.reported == 0),
        }
        flaws = [f"{count} {text}" for text, count in counts.items() if count]
        return [*flaws, self.first_error] if flaws and self.first_error else flaws

    def figures(self, scenario: Scenario, system: System) -> dict[str, float]:
        """Return the figures that the tables show."""
        figures = {figure: getattr(self, figure.replace("_ms", "_us")) for figure in scenario.columns}
        if system.protocol != "headway":  # others subscribe a watcher as part of the upgrade
            figures = {figure: value for figure, value in figures.items() if not figure.startswith("watch")}
        known = {figure: float(value) for figure, value in figures.items() if value is not None}
        return {figure: value / 1000 if figure.endswith("_ms") else value for figure, value in known.items()}


class Load(Process):
    """A load client. It runs one command per turn."""

    has_replies = True

    async def turn(self, command: str) -> TurnResult:
        """Run a turn and return its result."""
        return msgspec.json.decode(await self.request(command), type=TurnResult)


def watch_path(system: System, token: str) -> str:
    """Return the path of the watchers' requests, with the job of a token if it has a place for one."""
    if "{token}" not in system.watch_path:
        return system.watch_path
    job_id = jwt.decode(token, options={"verify_signature": False})["sub"]
    return system.watch_path.format(token=token, job_id=job_id)


async def write_connections(server: Server, count: int) -> Path:
    """Negotiate connections and write their tokens, one per line; return the path of the file."""
    url, path = f"http://{LOCAL}:{server.watch_port}/hubs/job-progress/negotiate", server.folder / "connections"
    async with aiohttp.ClientSession() as session:
        with path.open("w") as file:
            for _ in range(count):
                async with session.post(url) as response:
                    print((await response.json())["connectionId"], file=file)
    return path


async def load_command(
    scenario: Scenario, system: System, setup: SharedSetup, servers: Sequence[Server], seconds: float
) -> tuple[str, ...]:
    """Return the load client's command."""
    first = servers[0]
    token, jobs, filler = setup.jobs(system, scenario.jobs, first.folder)
    options = {
        "protocol": system.protocol,
        "watch-ports": ",".join(str(server.watch_port) for server in servers),
        "report-port": first.report_port,
        "watch-path": watch_path(system, token),
        "connections": await write_connections(first, scenario.watchers) if system.has_connection_tokens else None,
        "report-path": "/reports" if system.is_headway else "/pub/%d",
        "origin": ORIGIN,
        "key": setup.key if system.is_headway else None,
        "jobs": jobs,
        "use-jobs": scenario.jobs,
        "watchers": scenario.watchers,
        "stuck": system.slow_consumers,
        "filler": filler if system.slow_consumers else None,
        "filler-reports": FILLER_REPORTS if system.slow_consumers else None,
        "reporters": scenario.reporters,
        "batch": system.reports_per_request,
        "outstanding": scenario.outstanding,
        "portions": scenario.portions,
        "rate": scenario.rate,
        "seconds": seconds,
        "settle": scenario.settle_s,
        "server": ",".join(str(pid) for server in servers for pid in server.processes()),
        "redis": setup.redis.pid,
    }
    words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return pinned_to_core(CLIENT_CORE, (str(LOAD), *words))
