"""The components of deploy/k8s: each alone on the base, all together, and what each promises."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import pytest

from services.notifier.metrics import CONNECTIONS
from services.notifier.settings import NotifierSettings
from services.worker.settings import WorkerSettings
from tests.deploy.manifests import (
    COMPONENTS,
    FOLDERS,
    K8S,
    SCALERS,
    SERVICES,
    Object,
    WithComponents,
    default,
    documented_components,
    environment,
    images,
    named_ports,
    objects_of_kind,
    path_to_k8s,
    pod_labels,
    pod_spec,
    render,
    secret_files,
    selector_matches,
    settings_of,
    workloads,
)

API_KEYS = "SUBMITTER_API_KEYS=/etc/headway/api-keys"
SINGLE_VOLUME_SOURCE = 2  # the name of a volume, and its source


def scalers(objects: list[Object]) -> dict[str, list[Object]]:
    """Return the autoscalers of each Deployment, after checking that all targets exist."""
    found: dict[str, list[Object]] = {name: [] for name in objects_of_kind(objects, "Deployment")}
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        for scaler in objects_of_kind(objects, kind).values():
            target = scaler["spec"]["scaleTargetRef"]
            assert target.get("kind", "Deployment") == "Deployment"
            found[target["name"]].append(scaler)
    return found


def check(objects: list[Object]) -> None:
    """Check what holds in every combination: labels, size, images, volumes, and one owner of the number of replicas."""
    for obj in objects:
        assert obj["kind"] == "Namespace" or obj["metadata"]["namespace"] == "headway"
        assert {"app.kubernetes.io/name", "app.kubernetes.io/part-of"} <= obj["metadata"]["labels"].keys()
        assert len(json.dumps(obj)) < 256 * 1024
    for workload in workloads(objects).values():
        for image in images(workload):
            assert re.search(r"@sha256:|:dev$|:[\w.-]*\d[\w.-]*$", image), image
    for service, owners in scalers(objects).items():
        workload = objects_of_kind(objects, "Deployment")[service]
        assert all(len(volume) == SINGLE_VOLUME_SOURCE for volume in pod_spec(workload)["volumes"])
        if owners:
            (spec,) = [owner["spec"] for owner in owners]
            assert "replicas" not in workload["spec"]
            assert spec.get("minReplicas", spec.get("minReplicaCount")) >= 2
        else:
            assert workload["spec"]["replicas"] >= 2


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_renders_on_the_base(component: str, with_components: WithComponents) -> None:
    """A component needs no other, and leaves the base complete."""
    objects = with_components(component)
    check(objects)
    for kind in ("Deployment", "Service", "ServiceAccount"):
        assert objects_of_kind(render("base"), kind).keys() <= objects_of_kind(objects, kind).keys()


@pytest.mark.parametrize("step", [1, -1])
def test_all_components_render_together(step: int, with_components: WithComponents) -> None:
    """All components go together, in the documented order and in the reverse one."""
    check(with_components(*documented_components()[::step]))


@pytest.mark.matrix
@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_renders_with_every_other(component: str, with_components: WithComponents) -> None:
    """Each ordered pair renders, and leaves one owner of each number of replicas."""
    for other in set(COMPONENTS) - {component}:
        check(with_components(component, other))


@pytest.mark.parametrize(
    "pair", [pair for pair in itertools.permutations(SCALERS, 2) if len({*map(SCALERS.get, pair)}) == 1]
)
def test_the_later_autoscaler_replaces_the_earlier(pair: tuple[str, str], with_components: WithComponents) -> None:
    """Of two autoscalers of one service, exactly the later one remains, as it is alone."""
    check(with_components(*pair))
    assert with_components(*pair) == with_components(pair[1])


@pytest.mark.parametrize("folder", FOLDERS)
def test_overlays_have_one_owner_of_each_number_of_replicas(folder: str) -> None:
    """Each Deployment has either a number of replicas or exactly one autoscaler."""
    check(render(folder))


def test_the_readme_lists_the_components() -> None:
    """The table has one row for each component, in an order in which they work."""
    names = documented_components()
    assert sorted(names) == COMPONENTS
    assert names.index("gateway") < names.index("gateway-timeouts")


def test_workers_scale_by_the_queue(with_components: WithComponents) -> None:
    """KEDA counts leased messages, too; each worker has as many messages as slots; a failing KEDA stops no worker."""
    objects = with_components("keda-worker")
    spec = objects_of_kind(objects, "ScaledObject")["worker"]["spec"]
    (trigger,) = spec["triggers"]
    metadata = trigger["metadata"]
    assert trigger["type"] == "azure-queue"
    assert metadata["queueLengthStrategy"] == "all"
    assert int(metadata["queueLength"]) == default(WorkerSettings, "worker_concurrency")
    assert metadata["queueName"] == default(WorkerSettings, "queue_name")
    authentication = objects_of_kind(objects, "TriggerAuthentication")[trigger["authenticationRef"]["name"]]
    assert authentication["spec"]["podIdentity"]["provider"] == "azure-workload"
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["fallback"]["replicas"] >= spec["minReplicaCount"]


def test_notifiers_scale_by_connections(with_components: WithComponents) -> None:
    """Both autoscalers use 60 % of `MAX_CONNECTIONS` and CPU, and remove one pod at a time after ten minutes."""
    keda = objects_of_kind(with_components("keda-notifier"), "ScaledObject")
    hpa = objects_of_kind(with_components("hpa-notifier"), "HorizontalPodAutoscaler")
    spec, hpa_spec = keda["notifier"]["spec"], hpa["notifier"]["spec"]
    connections, cpu = spec["triggers"]
    hpa_connections, hpa_cpu = hpa_spec["metrics"]

    threshold = int(connections["metadata"]["threshold"])
    assert threshold == 0.6 * default(NotifierSettings, "max_connections")
    assert hpa_connections["pods"]["target"]["averageValue"] == f"{threshold // 1000}k"
    metric = hpa_connections["pods"]["metric"]["name"]
    assert [metric] == [family.name for family in CONNECTIONS.describe()]
    assert connections["metadata"]["query"] == f'sum({metric}{{namespace="headway"}})'
    assert connections["metricType"] == hpa_connections["pods"]["target"]["type"] == "AverageValue"
    assert connections["metadata"]["ignoreNullValues"] == "false"
    assert cpu["metadata"]["value"] == hpa_cpu["resource"]["target"]["averageValue"] == "700m"

    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior == hpa_spec["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 600
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 180}]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (hpa_spec["minReplicas"], hpa_spec["maxReplicas"])


@pytest.mark.parametrize("component", ["gateway", "ingress"])
def test_edges_lead_to_public_listeners_only(component: str, with_components: WithComponents) -> None:
    """Each backend is the public port of a Service; that of the notifier is marked for WebSockets."""
    objects = with_components(component)
    services = objects_of_kind(objects, "Service")
    (route,) = [obj for obj in objects if obj["kind"] in ("HTTPRoute", "Ingress")]
    rules = route["spec"]["rules"]
    backends = (
        [(backend["name"], backend["port"]) for rule in rules for backend in rule["backendRefs"]]
        if component == "gateway"
        else [
            (path["backend"]["service"]["name"], path["backend"]["service"]["port"]["name"])
            for rule in rules
            for path in rule["http"]["paths"]
        ]
    )
    assert {name for name, _ in backends} == {"submitter", "notifier"}
    for name, port in backends:
        (public,) = [each for each in services[name]["spec"]["ports"] if each["name"] != "internal"]
        assert port in (public["name"], public["port"])
    (http, _internal) = services["notifier"]["spec"]["ports"]
    assert http["appProtocol"] == "kubernetes.io/ws"


def test_timeouts_of_the_route_are_opt_in(with_components: WithComponents) -> None:
    """Only with `gateway-timeouts` the route has a timeout: none, for the paths of the notifier."""
    for components in (["gateway"], ["gateway", "gateway-timeouts"]):
        route = objects_of_kind(with_components(*components), "HTTPRoute")["headway"]
        timeouts = {rule["backendRefs"][0]["name"]: rule.get("timeouts") for rule in route["spec"]["rules"]}
        expected = {"request": "0s"} if "gateway-timeouts" in components else None
        assert timeouts == {"notifier": expected, "submitter": None}


def test_monitors_scrape_every_service(with_components: WithComponents) -> None:
    """Both PodMonitors select the pods of all services and their internal port, and set the same labels and limits."""
    objects = with_components("monitoring", "monitoring-azure")
    monitors = {obj["apiVersion"]: obj["spec"] for obj in objects if obj["kind"] == "PodMonitor"}
    assert set(monitors) == {"monitoring.coreos.com/v1", "azmonitoring.coreos.com/v1"}
    spec, azure = monitors["monitoring.coreos.com/v1"], monitors["azmonitoring.coreos.com/v1"]
    assert azure.items() <= spec.items()
    assert spec.keys() - azure.keys() == {"convertClassicHistogramsToNHCB", "scrapeClassicHistograms"}
    assert (azure["labelLimit"], azure["labelNameLengthLimit"], azure["labelValueLengthLimit"]) == (63, 511, 1023)
    (endpoint,) = spec["podMetricsEndpoints"]
    for workload in objects_of_kind(objects, "Deployment").values():
        assert selector_matches(spec["selector"], pod_labels(workload))
        assert endpoint["port"] in named_ports(pod_spec(workload))
    assert {relabeling["targetLabel"] for relabeling in endpoint["relabelings"]} == {"job", "service"}


@pytest.mark.parametrize("component", ["external-secrets", "csi-secrets"])
@pytest.mark.parametrize("service", SERVICES)
def test_vaults_provide_what_services_need(component: str, service: str, with_components: WithComponents) -> None:
    """With a workload identity for the queue, a service gets exactly the files that its settings name."""
    objects = with_components("workload-identity", component, env=API_KEYS)
    volumes = pod_spec(objects_of_kind(objects, "Deployment")[service])["volumes"]
    (volume,) = [volume for volume in volumes if volume["name"] == "secrets"]
    if component == "external-secrets":
        secret = objects_of_kind(objects, "ExternalSecret")[volume["secret"]["secretName"]]
        provided = {entry["secretKey"]: entry["remoteRef"]["key"] for entry in secret["spec"]["data"]}
        reference = secret["spec"]["secretStoreRef"]
        assert reference["name"] in objects_of_kind(objects, reference["kind"])
    else:
        name = volume["csi"]["volumeAttributes"]["secretProviderClass"]
        text = objects_of_kind(objects, "SecretProviderClass")[name]["spec"]["parameters"]["objects"]
        provided = csi_files(text)
    assert provided.keys() == secret_files(objects, service)
    assert provided == {file: f"headway-{file.replace('.', '-')}" for file in provided}


def csi_files(text: str) -> dict[str, str]:
    """Return the secret of each file, from the `objects` of a SecretProviderClass."""
    lines = [line.split(": ") for line in text.splitlines() if ": " in line]
    return {alias: name for (_, name), _, (_, alias) in zip(lines[::3], lines[1::3], lines[2::3], strict=True)}


def test_workload_identity_replaces_the_connection_string(with_components: WithComponents, tmp_path: Path) -> None:
    """Submitter and worker sign in with an identity of their service account; the notifier has none."""
    objects = with_components("workload-identity", env="QUEUE_ACCOUNT_URL=https://account.queue.core.windows.net")
    for service in ("submitter", "worker"):
        settings = settings_of(objects, service, tmp_path)
        assert settings.queue_connection_string is None
        assert settings.queue_account_url.endswith(".queue.core.windows.net")
        account = objects_of_kind(objects, "ServiceAccount")[service]
        assert "azure.workload.identity/client-id" in account["metadata"]["annotations"]
        assert pod_labels(objects_of_kind(objects, "Deployment")[service])["azure.workload.identity/use"] == "true"
    assert "annotations" not in objects_of_kind(objects, "ServiceAccount")["notifier"]["metadata"]


def test_components_set_no_setting_that_an_overlay_sets(with_components: WithComponents) -> None:
    """A component's settings would win over those of the overlay that includes it, so it sets none of your own."""
    before = environment(render("base"), "worker")
    for component in COMPONENTS:
        after = environment(with_components(component), "worker")
        changed = {name for name, value in after.items() if before.get(name) != value}
        if not component.startswith("dev-"):
            assert changed <= {"QUEUE_CONNECTION_STRING_FILE", "AZURE_TOKEN_CREDENTIALS"}


def test_azure_env_is_the_only_place_of_its_values(tmp_path: Path) -> None:
    """Each value of azure.env replaces a placeholder, and no placeholder remains."""
    source = K8S / "overlays/azure"
    values = dict(line.split("=") for line in (source / "azure.env").read_text().splitlines() if "=" in line)
    changed = {name: f"{value}.x{number}" for number, (name, value) in enumerate(values.items())}
    for file in source.iterdir():
        (tmp_path / file.name).write_text(file.read_text().replace("../../", f"{path_to_k8s(tmp_path)}/"))
    (tmp_path / "azure.env").write_text("".join(f"{name}={value}\n" for name, value in changed.items()))
    text = json.dumps(render(os.path.relpath(tmp_path, K8S)))
    for name, value in changed.items():
        assert re.search(rf'"(https://)?{re.escape(value)}"', text), name
        assert not re.search(rf'"(https://)?{re.escape(values[name])}"', text), name
    for service in ("submitter", "worker"):
        account = objects_of_kind(json.loads(text), "ServiceAccount")[service]
        assert changed[f"{service.upper()}_CLIENT_ID"] in account["metadata"]["annotations"].values()
