"""The rules of Prometheus in the forms that the Prometheus operator and Azure's managed Prometheus need.

`python -m dev.monitoring_rules` writes both files after a change of `rules.yaml`.
"""

from __future__ import annotations

import json
import re
import textwrap
from typing import Any

import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT

COMPONENTS = ROOT / "deploy/k8s/components"
RULES = COMPONENTS / "monitoring/rules.yaml"
OPERATOR = COMPONENTS / "monitoring/prometheusrule.yaml"
AZURE = COMPONENTS / "monitoring-azure/rules.json"
HEAD = """\
# Made from rules.yaml by python -m dev.monitoring_rules.
# yamllint disable rule:line-length
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: headway
  labels:
    app.kubernetes.io/name: headway
spec:
"""
AZURE_SEVERITIES = {"critical": 0, "warning": 2, "info": 3}
MAX_AZURE_RULES = 20  # in a group
UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Object = dict[str, Any]


def for_operator(rules: str) -> str:
    """Return the text of a PrometheusRule with the groups of a rule file."""
    return HEAD + textwrap.indent(rules, "  ")


def for_azure(rules: str) -> str:
    """Return the text of a template for the Azure Resource Manager with the groups of a rule file."""
    template = {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "metadata": {"description": "Made from ../monitoring/rules.yaml by python -m dev.monitoring_rules."},
        "parameters": {
            "workspace": {
                "type": "string",
                "metadata": {"description": "The resource id of the Azure Monitor workspace."},
            },
            "cluster": {"type": "string", "metadata": {"description": "The name of the AKS cluster."}},
            "actionGroup": {
                "type": "string",
                "metadata": {"description": "The resource id of the action group to call."},
            },
            "location": {"type": "string", "defaultValue": "[resourceGroup().location]"},
        },
        "resources": [_azure_group(group) for group in yaml.safe_load(rules)["groups"]],
    }
    return json.dumps(template, indent=2) + "\n"


def _azure_group(group: Object) -> Object:
    """Return a group of rules as a resource; raise ValueError if Azure does not accept so many rules."""
    if len(group["rules"]) > MAX_AZURE_RULES:
        raise ValueError(f"Azure accepts at most {MAX_AZURE_RULES} rules in a group: {group['name']}")
    return {
        "type": "Microsoft.AlertsManagement/prometheusRuleGroups",
        "apiVersion": "2023-03-01",
        "name": group["name"],
        "location": "[parameters('location')]",
        "properties": {
            "scopes": ["[parameters('workspace')]"],
            "clusterName": "[parameters('cluster')]",
            "interval": iso_duration(group.get("interval", "1m")),
            "rules": [_azure_rule(rule) for rule in group["rules"]],
        },
    }


def _azure_rule(rule: Object) -> Object:
    """Return a recording rule or an alert with Azure's names of the fields."""
    if "record" in rule:
        return {"record": rule["record"], "expression": rule["expr"], "labels": rule.get("labels", {})}
    return {
        "alert": rule["alert"],
        "expression": rule["expr"],
        "for": iso_duration(rule.get("for", "0s")),
        "severity": AZURE_SEVERITIES[rule["labels"]["severity"]],
        "labels": rule["labels"],
        "annotations": rule["annotations"],
        "resolveConfiguration": {
            "autoResolved": True,
            "timeToResolve": iso_duration(rule.get("keep_firing_for", "2m")),
        },
        "actions": [{"actionGroupId": "[parameters('actionGroup')]"}],
    }


def iso_duration(text: str) -> str:
    """Return a duration of Prometheus, such as `1h30m`, as one of ISO 8601."""
    parts = re.findall(r"(\d+)([a-z]+)", text)
    seconds = sum(int(number) * UNIT_S[unit] for number, unit in parts)
    return f"PT{seconds // 60}M" if seconds % 60 == 0 else f"PT{seconds}S"


def main() -> None:
    """Write both files."""
    rules = RULES.read_text()
    OPERATOR.write_text(for_operator(rules))
    AZURE.write_text(for_azure(rules))


if __name__ == "__main__":
    main()
