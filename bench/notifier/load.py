"""The load client: what it is told, what it finds in a turn, and whether that may count."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from bench.notifier.scenarios import Scenario
from bench.notifier.servers import CLIENT_CORE, ORIGIN, Bed, Server, pinned
from bench.notifier.systems import LOAD, System
from bench.processes import Process

FILLER_REPORTS = 40  # of 30 kB: more than a server and its kernel hold of what a stuck watcher does not take


class Outcome(Struct, frozen=True, kw_only=True):
    """What the load client answers after a turn, without what the turn was not about; `_us` are microseconds."""

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
    complaint: str

    def flaws(self) -> list[str]:
        """Tell why it must not count."""
        missing = self.expected - self.delivered
        counts = {
            "watchers are not watching": self.unwatching,
            "watchers were lost": self.lost,
            "reports were refused": self.refused,
            "deliveries are missing": max(0, missing),
            "deliveries came twice": max(0, -missing),
            "turn had no report": int(self.reported == 0),
        }
        found = [f"{count} {what}" for what, count in counts.items() if count]
        return [*found, self.complaint] if found and self.complaint else found

    def figures(self, scenario: Scenario, system: System) -> dict[str, float]:
        """Return what the tables have of it."""
        found = {figure: getattr(self, figure.replace("_ms", "_us")) for figure in scenario.columns}
        if not system.ours:  # a peer's upgrade is its watch
            found = {figure: value for figure, value in found.items() if not figure.startswith("watch")}
        known = {figure: float(value) for figure, value in found.items() if value is not None}
        return {figure: value / 1000 if figure.endswith("_ms") else value for figure, value in known.items()}


class Load(Process):
    """A load client that is told what to do turn by turn."""

    answers = True

    async def turn(self, command: str) -> Outcome:
        """Have it do what is its turn now."""
        return msgspec.json.decode(await self.ask(command), type=Outcome)


def command(scenario: Scenario, system: System, bed: Bed, servers: Sequence[Server], seconds: float) -> tuple[str, ...]:
    """Return the load client's command."""
    first = servers[0]
    jobs, filler = bed.jobs(system, scenario.jobs, first.folder)
    options = {
        "protocol": system.protocol,
        "watch-ports": ",".join(str(server.watch_port) for server in servers),
        "report-port": first.report_port,
        "watch-path": system.watch_path,
        "report-path": "/reports" if system.ours else "/pub/%d",
        "origin": ORIGIN,
        "key": bed.key if system.ours else None,
        "jobs": jobs,
        "use-jobs": scenario.jobs,
        "watchers": scenario.watchers,
        "stuck": system.stuck,
        "filler": filler if system.stuck else None,
        "filler-reports": FILLER_REPORTS if system.stuck else None,
        "reporters": scenario.reporters,
        "batch": system.batch,
        "outstanding": scenario.outstanding,
        "portions": scenario.portions,
        "rate": scenario.rate,
        "seconds": seconds,
        "settle": scenario.settle_s,
        "server": ",".join(str(pid) for server in servers for pid in server.processes()),
        "redis": bed.redis.pid,
    }
    told = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return pinned(CLIENT_CORE, (str(LOAD), *told))
