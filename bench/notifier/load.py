"""The load client, run once: what it is told, what it has found, and whether that may count."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from bench.notifier.scenarios import Scenario
from bench.notifier.servers import CLIENT_CORE, ORIGIN, Bed, Server, pinned
from bench.notifier.systems import LOAD, System

LONGEST_S = 180.0  # more than all the limits in load.h together
FILLER_REPORTS = 40  # of 30 kB: more than a server and its kernel hold of what a stuck watcher does not take


class Outcome(Struct, frozen=True, kw_only=True):
    """What the load client prints; `_us` are microseconds."""

    upgrade_us: float = 0
    watch_us: float = 0
    idle_bytes: float = 0
    watched_bytes: float = 0
    delivery_us: float = 0
    report_us: float = 0
    redis_us: float = 0
    p50_us: int = 0
    p99_us: int = 0
    rate: float = 0
    seconds: float = 0
    watching: int
    lost: int
    reported: int
    refused: int
    delivered: int
    expected: int
    complaint: str

    def flaws(self, scenario: Scenario) -> list[str]:
        """Tell why it must not count."""
        missing = self.expected - self.delivered
        counts = {
            "watchers are not watching": scenario.watchers - self.watching,
            "watchers were lost": self.lost,
            "reports were refused": self.refused,
            "deliveries are missing": max(0, missing),
            "deliveries came twice": max(0, -missing),
            "scenario was not come to": int(scenario.reports and not self.reported),
        }
        found = [f"{count} {what}" for what, count in counts.items() if count]
        return [*found, self.complaint] if found and self.complaint else found

    def figures(self, scenario: Scenario, system: System) -> dict[str, float]:
        """Return what the tables have of it."""
        found = {figure: float(getattr(self, figure.replace("_ms", "_us"))) for figure in scenario.columns}
        if not system.ours:  # a peer's upgrade is its watch
            found = {figure: value for figure, value in found.items() if not figure.startswith("watch")}
        if scenario.reports and "redis_us" in found and not found["redis_us"]:
            del found["redis_us"]
        return {figure: value / 1000 if figure.endswith("_ms") else value for figure, value in found.items()}


def command(scenario: Scenario, system: System, bed: Bed, servers: Sequence[Server], seconds: float) -> list[str]:
    """Return the load client's command."""
    first = servers[0]
    options = {
        "protocol": system.protocol,
        "watch-ports": ",".join(str(server.watch_port) for server in servers),
        "report-port": first.report_port,
        "watch-path": system.watch_path,
        "report-path": "/reports" if system.ours else "/pub/%d",
        "origin": ORIGIN,
        "key": bed.key if system.ours else None,
        "jobs": bed.jobs[system.ours],
        "use-jobs": scenario.jobs,
        "watchers": scenario.watchers,
        "stuck": system.stuck,
        "filler": bed.filler if system.stuck else None,
        "filler-reports": FILLER_REPORTS if system.stuck else None,
        "reporters": scenario.reporters,
        "batch": system.batch,
        "outstanding": scenario.outstanding,
        "rate": scenario.rate,
        "seconds": seconds if scenario.reports else 0,
        "settle": scenario.settle_s,
        "server": ",".join(str(pid) for server in servers for pid in server.processes()),
        "redis": bed.redis.pid,
    }
    told = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return list(pinned(CLIENT_CORE, (str(LOAD), *told)))


async def run(words: Sequence[str]) -> Outcome:
    """Run the load client."""
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        said, complained = await asyncio.wait_for(process.communicate(), LONGEST_S)
    except BaseException:
        process.kill()
        raise
    if process.returncode:
        raise RuntimeError(f"the load client ended with {process.returncode}: {complained.decode()}")
    return msgspec.json.decode(said, type=Outcome)
