"""The scenarios: who watches what, and how fast it is reported."""

from __future__ import annotations

from typing import NamedTuple


class Scenario(NamedTuple):
    """What the load client does with one system."""

    name: str  # its measures begin with it
    title: str
    columns: dict[str, str]  # figure -> the title of its column
    watchers: int = 1_000
    jobs: int = 1
    rate: float = 50  # reports a second
    reporters: int = 1  # connections that post them: one keeps a job's reports in order
    outstanding: int = 2  # reports on their way at most: who is slower than the rate is measured at its own pace
    replicas: int = 1
    turns: int = 10  # for each system in a round: of reports or, where there are none, of a portion of the connections
    reports: bool = True
    settle_s: float = 0.3

    @property
    def commands(self) -> tuple[str, ...]:
        """Return what each load client is told, turn by turn."""
        if self.reports:
            return ("open", "watch", *self.turns * ("report",))
        return (*self.turns * ("open",), *self.turns * ("watch",))

    @property
    def portions(self) -> int:
        """In how many parts the watchers connect, and watch."""
        return self.commands.count("open")

    def measure(self, figure: str) -> str:
        """Name a figure of this scenario."""
        return f"{self.name}_{figure}"

    def measures(self) -> dict[str, str]:
        """Return the columns of its table."""
        return {self.measure(figure): title for figure, title in self.columns.items()}


DELIVERED = {"delivery_us": "server CPU a delivery, µs", "p50_ms": "p50 ms", "p99_ms": "p99 ms", "rate": "reports/s"}
REPORTED = {
    "report_us": "server CPU a report, µs",
    "redis_us": "Redis CPU a report, µs",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "rate": "reports/s",
}
WEIGHED = {
    "idle_bytes": "bytes a connection",
    "watched_bytes": "with a watch, bytes",
    "upgrade_us": "CPU a handshake, µs",
    "watch_us": "CPU of the first watch besides, µs",
}

FANOUT = Scenario("fanout", "One job, 1,000 watchers, 50 reports a second", DELIVERED)
JOBS = Scenario(
    "jobs",
    "1,000 jobs, a watcher each, 500 reports a second",
    REPORTED,
    jobs=1_000,
    rate=500,
    reporters=8,
    outstanding=250,
)
IDLE = Scenario("idle", "5,000 idle connections", WEIGHED, watchers=5_000, jobs=5_000, reports=False, settle_s=1.5)
# Half the rate, so that the core has time to spare, and what the stuck ones cost shows in the latency; and over before
# those that read nothing, and so answer no ping, are taken for gone.
STUCK = Scenario(
    "stuck", "1,000 healthy watchers beside 1,000 that never read, 25 reports a second", DELIVERED, rate=25, turns=8
)
REPLICAS = Scenario("replicas", "Two replicas with 500 watchers each, reports to one", DELIVERED, replicas=2, turns=5)
SCENARIOS = (FANOUT, JOBS, IDLE, STUCK, REPLICAS)
