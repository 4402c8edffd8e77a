"""The network policies allow exactly the connections that the services need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deploy.manifests import (
    SERVICES,
    Object,
    named_ports,
    objects_of_kind,
    pod_labels,
    pod_spec,
    render,
    selector_matches,
    workloads,
)

OVERLAYS = ["overlays/dev", "overlays/production", "overlays/azure"]
each_overlay = pytest.mark.parametrize("folder", OVERLAYS)
# The connections that policies must allow: source, target, port.
CONNECTIONS = [
    ("notifier", "redis", "store"),
    ("submitter", "azurite", "store"),
    ("worker", "azurite", "store"),
    ("submitter", "notifier", "internal"),
    ("worker", "notifier", "internal"),
    ("worker", "submitter", "internal"),
]
STORES = {"redis", "azurite"}  # pods that only development has
MONITORING = {"kubernetes.io/metadata.name": "monitoring"}
METADATA = "169.254.169.254/32"  # where a cloud gives the credentials of the node to everyone who asks


def policies_of(folder: str, labels: dict[str, str]) -> list[Object]:
    """Return the policies that apply to a pod."""
    policies = objects_of_kind(render(folder), "NetworkPolicy").values()
    return [policy for policy in policies if selector_matches(policy["spec"]["podSelector"], labels)]


def rules_of(folder: str, labels: dict[str, str], direction: str) -> list[Object]:
    """Return the rules for the traffic of a pod: `ingress` or `egress`."""
    return [rule for policy in policies_of(folder, labels) for rule in policy["spec"].get(direction, [])]


def tcp(port: str | int) -> Object:
    """Return a port of a rule."""
    return {"port": port, "protocol": "TCP"}


@each_overlay
def test_everything_is_denied_by_default(folder: str) -> None:
    """A policy for all pods allows nothing in either direction."""
    assert objects_of_kind(render(folder), "NetworkPolicy")["default-deny"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }


@each_overlay
def test_selectors_and_ports_match_existing_pods(folder: str) -> None:
    """Each policy applies to pods, and every pod that a rule names has the ports that it names."""
    all_workloads = workloads(render(folder)).values()

    def selected_pods(selector: Object) -> list[Object]:
        return [pod_spec(workload) for workload in all_workloads if selector_matches(selector, pod_labels(workload))]

    def pods_of_peers(rule: Object) -> Iterator[Object]:
        for selector in (peer["podSelector"] for peer in rule["to"] if "podSelector" in peer):
            pods = selected_pods(selector)
            assert pods or selector["matchLabels"]["app.kubernetes.io/name"] in STORES
            yield from pods

    for policy in objects_of_kind(render(folder), "NetworkPolicy").values():
        specs = selected_pods(policy["spec"]["podSelector"])
        assert specs
        for rule in policy["spec"].get("ingress", []):
            assert all(port["port"] in named_ports(spec) for spec in specs for port in rule["ports"])
        for rule in policy["spec"].get("egress", []):
            peers = list(pods_of_peers(rule))
            for port in rule["ports"]:
                assert isinstance(port["port"], int) or all(port["port"] in named_ports(spec) for spec in peers)


@pytest.mark.parametrize(("target", "port"), sorted({connection[1:] for connection in CONNECTIONS}))
def test_policies_allow_only_the_needed_connections(target: str, port: str) -> None:
    """Egress and ingress are allowed for exactly these connections, in the overlay that includes the stores."""
    labels = {name: pod_labels(workload) for name, workload in workloads(render("overlays/dev")).items()}

    def allowed(pod: str, direction: str, side: str, peer: str) -> bool:
        return any(
            selector_matches(entry["podSelector"], labels[peer])
            for rule in rules_of("overlays/dev", labels[pod], direction)
            if tcp(port) in rule["ports"]
            for entry in rule.get(side, [])
            if "podSelector" in entry
        )

    for source in labels:
        both = allowed(source, "egress", "to", target) and allowed(target, "ingress", "from", source)
        assert both is ((source, target, port) in CONNECTIONS)


@each_overlay
def test_policies_allow_dns(folder: str) -> None:
    """Every service may send DNS queries."""
    for workload in objects_of_kind(render(folder), "Deployment").values():
        ports = [port for rule in rules_of(folder, pod_labels(workload), "egress") for port in rule["ports"]]
        assert {("UDP", 53), ("TCP", 53)} <= {(port.get("protocol"), port["port"]) for port in ports}


@pytest.mark.parametrize("service", SERVICES)
@each_overlay
def test_policies_allow_prometheus(folder: str, service: str) -> None:
    """A Prometheus in `monitoring`, or the managed one of AKS in `kube-system`, may scrape the internal port."""
    labels = pod_labels(objects_of_kind(render(folder), "Deployment")[service])
    rules = [rule for rule in rules_of(folder, labels, "ingress") if tcp("internal") in rule["ports"]]
    for namespace, is_allowed in (("monitoring", True), ("kube-system", True), ("default", False)):
        peer = {"kubernetes.io/metadata.name": namespace}
        selectors = [
            entry["namespaceSelector"] for rule in rules for entry in rule["from"] if "namespaceSelector" in entry
        ]
        assert any(selector_matches(selector, peer) for selector in selectors) is is_allowed


@pytest.mark.parametrize("service", SERVICES)
@each_overlay
def test_policies_allow_public_listeners_only(folder: str, service: str) -> None:
    """A public listener may be reached from everywhere, an internal one only by the pods that a rule names."""
    workload = objects_of_kind(render(folder), "Deployment")[service]
    rules = rules_of(folder, pod_labels(workload), "ingress")
    open_ports = {port["port"] for rule in rules if "from" not in rule for port in rule["ports"]}
    assert open_ports == named_ports(pod_spec(workload)).keys() - {"internal"}


@each_overlay
def test_policies_block_the_metadata_service(folder: str) -> None:
    """No pod may reach the metadata service: blocks of addresses that contain it exclude it."""
    for policy in objects_of_kind(render(folder), "NetworkPolicy").values():
        for rule in policy["spec"].get("egress", []):
            assert rule["to"], "a rule without peers allows every address"
            for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
                assert METADATA in block.get("except", []) or block["cidr"] == "10.0.0.0/8"


@pytest.mark.parametrize("folder", ["overlays/production", "overlays/azure"])
def test_another_redis_is_one_patch(folder: str) -> None:
    """The patch of the overlay replaces every address of Redis: nothing but its network and its port remains."""
    policy = objects_of_kind(render(folder), "NetworkPolicy")["to-redis"]
    assert policy["spec"]["egress"] == [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [tcp(10000)]}]


@each_overlay
def test_policies_allow_a_collector_of_spans(folder: str) -> None:
    """Submitter and worker may send spans to the namespace `monitoring`, at the port of OTLP over HTTP."""
    for service, has_spans in (("submitter", True), ("worker", True), ("notifier", False)):
        labels = pod_labels(objects_of_kind(render(folder), "Deployment")[service])
        ports = {
            port["port"]
            for rule in rules_of(folder, labels, "egress")
            for peer in rule["to"]
            if selector_matches(peer.get("namespaceSelector", {"matchLabels": {"none": ""}}), MONITORING)
            for port in rule["ports"]
        }
        assert ports == ({4318} if has_spans else set())
