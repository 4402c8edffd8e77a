"""The PromQL queries of rules, dashboard and runbooks: their metrics, labels and aggregations."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import NamedTuple

import promql_parser
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from tests.deploy.manifests import Object
from tests.documents import Document

MONITORING = ROOT / "deploy/k8s/components/monitoring"
RULES_FILE = MONITORING / "rules.yaml"
ALERT_TESTS = sorted((ROOT / "tests/deploy/alerts").glob("*.yaml"))
RULES: list[Object] = [rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]]
RECORDED: dict[str, str] = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
ALERTS: dict[str, Object] = {rule["alert"]: rule for rule in RULES if "alert" in rule}
# Labels that Prometheus or an autoscaler adds; `le` belongs to each bucket of a histogram.
TARGET_LABELS = {"namespace", "job", "instance", "pod", "container", "endpoint", "service"}
PROCESS_METRICS = (  # of prometheus_client, on Linux
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
)
# Metrics of other programs, with the labels that queries may use: https://keda.sh/docs/latest/integrations/prometheus/
FOREIGN_METRICS = {
    "up": set[str](),
    "ALERTS": {"alertstate", "alertname", "severity"},
    "keda_scaler_detail_errors_total": {"metric", "scaledObject", "scaler", "triggerIndex", "type"},
    "keda_scaler_metrics_value": {"metric", "scaledObject", "scaler", "triggerIndex", "type"},
}
DASHBOARD: Object = json.loads((MONITORING / "dashboard.json").read_text())
PANELS: list[Object] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# The values of the dashboard's variables, as if everything was selected.
VARIABLES = {
    "namespace": ".*",
    "job": ".*",
    "instance": ".*",
    "quantile": "0.95",
    "__rate_interval": "1m",
}
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")


def dashboard_queries(**variables: str) -> dict[str, str]:
    """Return the queries of the dashboard by panel and letter, with the values of its variables in their places."""
    values = VARIABLES | variables
    return {
        f"{panel['title']} {target['refId']}": re.sub(r"\$(\w+)", lambda name: values[name[1]], target["expr"])
        for panel in PANELS
        for target in panel["targets"]
    }


class Selector(NamedTuple):
    """The selection of a metric's series in a query."""

    metric: str
    labels: set[str]  # that it compares


def expressions(query: str) -> list[promql_parser.Expr]:
    """Return all expressions within a query.

    Raises:
        ValueError: the query is not valid PromQL.
    """
    found: list[promql_parser.Expr] = []

    def visit(expression: promql_parser.Expr) -> bool:
        found.append(expression)
        return True

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def selectors(query: str) -> list[Selector]:
    """Return the selectors of a query."""
    vectors = [
        each.vector_selector if isinstance(each, promql_parser.MatrixSelector) else each for each in expressions(query)
    ]
    return [
        Selector(vector.name or "", {matcher.name for matcher in vector.matchers.matchers})
        for vector in vectors
        if isinstance(vector, promql_parser.VectorSelector)
    ]


def aggregations(query: str) -> list[promql_parser.AggregateExpr]:
    """Return the aggregations of a query, such as `sum by (kind) (…)`."""
    return [each for each in expressions(query) if isinstance(each, promql_parser.AggregateExpr)]


@cache
def labels_of_series() -> dict[str, set[str]]:
    """Return the name of each series that a query may use, and its labels.

    The services' own are those of docs/metrics.md, which a test compares with the code.
    """
    series = {name: set[str]() for name in PROCESS_METRICS} | FOREIGN_METRICS
    for line in Document("docs/metrics.md").text.splitlines():
        if match := re.fullmatch(r"\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) \| .* \|", line):
            name, kind, labels = match[1], match[2], set(re.findall(r"`(\w+)`", match[3]))
            if kind == "histogram":
                series |= {f"{name}_bucket": labels | {"le"}, f"{name}_count": labels, f"{name}_sum": labels}
            else:
                series[name] = labels
    return series | {name: recorded_labels(query, series) for name, query in RECORDED.items()}


def recorded_labels(query: str, series: dict[str, set[str]]) -> set[str]:
    """Return the labels that a recorded series may have: those of the series in its query."""
    names = [selector.metric for selector in selectors(query)]
    return set().union(*(series[name] if name in series else recorded_labels(RECORDED[name], series) for name in names))


def numbers(query: str) -> set[float]:
    """Return the numbers in a query, and in those of the recorded series that it uses; also those in quoted labels."""
    found = {float(number) for number in NUMBER.findall(query)}
    return found.union(*(numbers(RECORDED[each.metric]) for each in selectors(query) if each.metric in RECORDED))


def unknown_series(query: str) -> list[str]:
    """Return the selected metrics that no program exports, and the labels that a query uses but no metric of it has."""
    known = labels_of_series()
    problems = []
    for aggregation in aggregations(query):
        inner = [known.get(each.metric, set()) for each in selectors(aggregation.expr.prettify())]
        grouped = set(aggregation.modifier.labels) if aggregation.modifier else set()
        problems.extend(sorted(grouped - TARGET_LABELS.union(*inner)))
    for metric, labels in selectors(query):
        if metric not in known:
            problems.append(metric)
        else:
            problems.extend(f"{metric}{{{label}}}" for label in labels - known[metric] - TARGET_LABELS)
    return problems
