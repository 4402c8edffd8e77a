"""The rules and the dashboard reach the Prometheus operator, Grafana and Azure's managed Prometheus unchanged."""

from __future__ import annotations

import json

import pytest
import yaml  # type: ignore[import-untyped]

from dev.monitoring_rules import AZURE, OPERATOR, RULES, for_azure, for_operator, iso_duration
from tests.deploy.manifests import Object, WithComponents, objects_of_kind

GROUPS: list[Object] = yaml.safe_load(RULES.read_text())["groups"]


def test_made_files_are_current() -> None:
    """After a change of rules.yaml, `python -m dev.monitoring_rules` has written both files."""
    assert OPERATOR.read_text() == for_operator(RULES.read_text())
    assert AZURE.read_text() == for_azure(RULES.read_text())


def test_the_component_has_the_rules_and_the_dashboard(with_components: WithComponents) -> None:
    """The PrometheusRule has the groups of rules.yaml, and a config map for Grafana has dashboard.json."""
    objects = with_components("monitoring")
    (rule,) = objects_of_kind(objects, "PrometheusRule").values()
    assert rule["spec"]["groups"] == GROUPS
    dashboard = objects_of_kind(objects, "ConfigMap")["headway-dashboard"]
    assert dashboard["data"] == {"dashboard.json": RULES.with_name("dashboard.json").read_text()}
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_azure_gets_the_same_rules() -> None:
    """Each rule has the same name and expression, each alert its severity, and Azure's limit of rules is kept."""
    resources = json.loads(AZURE.read_text())["resources"]
    assert [resource["name"] for resource in resources] == [group["name"] for group in GROUPS]
    for resource, group in zip(resources, GROUPS, strict=True):
        rules = resource["properties"]["rules"]
        names = [(rule.get("record"), rule.get("alert"), rule["expression"]) for rule in rules]
        assert names == [(rule.get("record"), rule.get("alert"), rule["expr"]) for rule in group["rules"]]
        severities = {rule["labels"]["severity"]: rule["severity"] for rule in rules if "alert" in rule}
        assert severities.items() <= {"critical": 0, "warning": 2, "info": 3}.items()
        assert resource["properties"]["interval"] == "PT1M"


def test_a_group_that_azure_refuses_is_an_error() -> None:
    """More than 20 rules in a group are refused when the file is made, not when it is deployed."""
    rules = [{"record": f"job:metric:rule{number}", "expr": "1"} for number in range(21)]
    with pytest.raises(ValueError, match="at most 20 rules in a group: headway"):
        for_azure(yaml.safe_dump({"groups": [{"name": "headway", "rules": rules}]}))


@pytest.mark.parametrize(
    ("prometheus", "iso"), [("30s", "PT30S"), ("2m", "PT2M"), ("1h", "PT60M"), ("1h30m", "PT90M"), ("0s", "PT0M")]
)
def test_durations(prometheus: str, iso: str) -> None:
    """A duration keeps its length."""
    assert iso_duration(prometheus) == iso
