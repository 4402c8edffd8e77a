"""The dashboard for Grafana: its panels, its queries, and how Compose and Kubernetes use the same files."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from tests.deploy.manifests import COMPOSE
from tests.deploy.queries import (
    ALERTS,
    DASHBOARD,
    MONITORING,
    PANELS,
    RECORDED,
    dashboard_queries,
    numbers,
    selectors,
    unknown_series,
)

ROWS = ["User view", "Queue", "Workers", "Connections", "Fan-out and Redis", "Runtime", "Rollout"]
MAX_PANELS = 40


def limits(panel: dict[str, Any]) -> list[float]:
    """Return the values at which a panel changes its color."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return [step["value"] for step in steps if step["value"] is not None]


def test_dashboard_has_an_address_and_variables() -> None:
    """Links to it stay valid, and it can be narrowed to a namespace, a job, a replica and a quantile."""
    assert DASHBOARD["uid"] == "headway"
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "job", "instance", "quantile"]
    for name, variable in variables.items():
        assert variable["type"] == {"datasource": "datasource", "quantile": "custom"}.get(name, "query")
        if variable["type"] == "query":
            query = re.sub(r"label_values\((.*), (\w+)\)", r"count by (\2) (\1)", variable["definition"])
            assert unknown_series(query) == []
    assert variables["namespace"]["allValue"] == ".*"  # Compose has no namespaces


def test_rows_go_from_users_to_causes() -> None:
    """The rows are in the order of the questions that you ask, each with at least three panels."""
    titles = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert titles == ROWS
    assert len(PANELS) <= MAX_PANELS
    groups = "".join("|" if panel["type"] == "row" else "." for panel in DASHBOARD["panels"]).split("|")[1:]
    assert all(len(group) >= 3 for group in groups)


def test_panels_do_not_overlap() -> None:
    """Each panel has a place of its own, and an id of its own."""
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel_is_readable(panel: dict[str, Any]) -> None:
    """It has a description, a unit that fits its queries, a short legend, and the data source that you choose."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    assert len(panel["description"]) > 20
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert target["legendFormat"]
        labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        kept = set(re.findall(r"\w+", "".join(re.findall(r"by \(([^)]*)\)", target["expr"])))) - {"le"}
        assert labels == kept, target["expr"]
        if "_seconds_bucket" in target["expr"] or "_age_seconds" in target["expr"]:
            assert unit == "s"
        if unit in ("ops", "reqps"):
            assert "rate(" in target["expr"]
        assert (":ratio" in target["expr"]) <= (unit == "percentunit")


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_limits_are_those_of_the_alerts(panel: dict[str, Any]) -> None:
    """A panel links to runbooks, and becomes red at a number that an alert of one of them has."""
    names = [link["title"] for link in panel["links"]]
    for name, link in zip(names, panel["links"], strict=True):
        assert link["url"] == ALERTS[name]["annotations"]["runbook_url"]
    alert_numbers = set[float]().union(*(numbers(ALERTS[name]["expr"]) for name in names))
    assert set(limits(panel)) <= alert_numbers


def test_every_alert_has_a_panel() -> None:
    """Every alert about a metric of Headway has a panel that links to its runbook and shows one of its series."""
    for name, rule in ALERTS.items():
        if "keda_" not in rule["expr"]:
            panels = [panel for panel in PANELS if name in [link["title"] for link in panel["links"]]]
            shown = {
                metric for panel in panels for target in panel["targets"] for metric in base_metrics(target["expr"])
            }
            assert shown & base_metrics(rule["expr"]), name


def base_metrics(query: str) -> set[str]:
    """Return the metrics of the services that a query uses, itself or through recorded series."""
    found: set[str] = set()
    for selector in selectors(re.sub(r"\$quantile", "0.95", query).replace("$__rate_interval", "1m")):
        if selector.metric in RECORDED:
            found |= base_metrics(RECORDED[selector.metric])
        else:
            found.add(re.sub("_(bucket|count|sum)$", "", selector.metric))
    return found


@pytest.mark.parametrize("name", dashboard_queries())
def test_queries_exist(name: str) -> None:
    """Each query is valid PromQL, and its metrics and labels exist."""
    assert unknown_series(dashboard_queries()[name]) == []


def test_compose_and_kubernetes_use_the_same_files() -> None:
    """Compose mounts the rules and the dashboard of the Kubernetes component, where its configuration expects them."""
    mounts = dict(
        volume.split(":")[:2] for service in ("prometheus", "grafana") for volume in COMPOSE[service]["volumes"]
    )
    mounts = {(ROOT / source).resolve(): target for source, target in mounts.items()}
    prometheus = yaml.safe_load((ROOT / "deploy/compose/prometheus.yml").read_text())
    assert prometheus["rule_files"] == [mounts[MONITORING / "rules.yaml"]]
    provisioning = ROOT / "deploy/compose/grafana"
    assert mounts[provisioning] == "/etc/grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/headway.yaml").read_text())["providers"]
    assert Path(mounts[MONITORING / "dashboard.json"]).parent == Path(provider["options"]["path"])
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
