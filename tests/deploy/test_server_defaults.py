"""The manifests say what the API server would add to values that it compares as a whole.

Without that, each `kubectl apply` reports changes where there are none, and server-side apply after client-side apply
ends with conflicts. The claims of the stores for development are left out: what the server adds to them depends on its
version.
"""

from __future__ import annotations

import re

import pytest

from tests.deploy.manifests import COMPONENTS, FOLDERS, Object, WithComponents, objects_of_kind, render


@pytest.fixture(params=[*FOLDERS, *COMPONENTS])
def objects(request: pytest.FixtureRequest, with_components: WithComponents) -> list[Object]:
    """Return the objects of each folder, and of each component on the base."""
    return render(request.param) if request.param in FOLDERS else with_components(request.param)


def test_ports_of_network_policies_have_a_protocol(objects: list[Object]) -> None:
    """Their default is TCP."""
    policies = objects_of_kind(objects, "NetworkPolicy").values()
    rules = [
        rule for policy in policies for direction in ("ingress", "egress") for rule in policy["spec"].get(direction, [])
    ]
    assert all("protocol" in port for rule in rules for port in rule.get("ports", []))


def test_strategies_have_a_type(objects: list[Object]) -> None:
    """The default is RollingUpdate."""
    deployments = objects_of_kind(objects, "Deployment").values()
    assert deployments
    assert all(deployment["spec"]["strategy"]["type"] == "RollingUpdate" for deployment in deployments)


def test_quantities_of_autoscalers_are_canonical(objects: list[Object]) -> None:
    """The server changes 12000 to 12k, and 1000m to 1."""
    autoscalers = objects_of_kind(objects, "HorizontalPodAutoscaler").values()
    metrics = [metric for autoscaler in autoscalers for metric in autoscaler["spec"]["metrics"]]
    values = [metric[metric["type"].lower()]["target"]["averageValue"] for metric in metrics]
    assert [value for value in values if re.search("000[mk]?$", value)] == []
