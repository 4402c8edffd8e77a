"""The scenarios: numbers of watchers and jobs, and rates of reports."""

from __future__ import annotations

from typing import NamedTuple


class Scenario(NamedTuple):
    """What the load client measures of one system."""

    name: str  # the prefix of its measures
    title: str
    columns: dict[str, str]  # figure -> the title of its column
    watchers: int = 1_000
    jobs: int = 1
    rate: float = 50  # reports per second
    reporters: int = 1  # connections that post reports; a single one keeps the reports of a job in order
    outstanding: int = 2  # the most undelivered reports: a system slower than the rate is measured at its own pace
    replicas: int = 1
    turns: int = 10  # per system and round: of reports, or else of a portion of the connections
    reports: bool = True
    settle_s: float = 0.3

    @property
    def commands(self) -> tuple[str, ...]:
        """The load client's command of each turn."""
        if self.reports:
            return ("open", "watch", *self.turns * ("report",))
        return (*self.turns * ("open",), *self.turns * ("watch",))

    @property
    def portions(self) -> int:
        """The number of portions in which the watchers connect and subscribe."""
        return self.commands.count("open")

    def measure(self, figure: str) -> str:
        """Return the measure of a figure of this scenario."""
        return f"{self.name}_{figure}"

    def column_titles(self) -> dict[str, str]:
        """Return measure -> title of the columns of its table."""
        return {self.measure(figure): title for figure, title in self.columns.items()}


DELIVERY_COLUMNS = {
    "delivery_us": "server CPU per delivery, µs",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "rate": "reports/s",
}
REPORT_COLUMNS = {
    "report_us": "server CPU per report, µs",
    "redis_us": "Redis CPU per report, µs",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "rate": "reports/s",
}
IDLE_COLUMNS = {
    "idle_bytes": "bytes per connection",
    "watched_bytes": "bytes with a subscription",
    "upgrade_us": "CPU per handshake, µs",
    "watch_us": "CPU of the first subscription, µs",
}

FANOUT = Scenario("fanout", "One job, 1,000 watchers, 50 reports per second", DELIVERY_COLUMNS)
JOBS = Scenario(
    "jobs",
    "1,000 jobs, one watcher each, 500 reports per second",
    REPORT_COLUMNS,
    jobs=1_000,
    rate=500,
    reporters=8,
    outstanding=250,
)
IDLE = Scenario("idle", "5,000 idle connections", IDLE_COLUMNS, watchers=5_000, jobs=5_000, reports=False, settle_s=1.5)
# Half the rate leaves the core idle time, so that the cost of slow consumers shows in the latency. The scenario ends
# before the ping timeout of consumers that never read.
SLOW_CONSUMERS = Scenario(
    "stuck",
    "1,000 watchers, with and without 1,000 slow consumers, 25 reports per second",
    DELIVERY_COLUMNS,
    rate=25,
    turns=8,
)
REPLICAS = Scenario(
    "replicas", "Two replicas with 500 watchers each, reports to one of them", DELIVERY_COLUMNS, replicas=2, turns=5
)
TRANSPORTS = Scenario(
    "transports", "One job, 1,000 watchers over each transport, 50 reports per second", DELIVERY_COLUMNS
)
SCENARIOS = (FANOUT, JOBS, IDLE, SLOW_CONSUMERS, REPLICAS, TRANSPORTS)
