"""The commands and manifests of docs/kubernetes.md, as far as they can be checked without a cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from services.runtime.settings import Settings
from tests.deploy.manifests import (
    K8S,
    SCALERS,
    SERVICES,
    default,
    documented_components,
    kubectl_problem,
    objects_of_kind,
    render,
    secret_files,
    write_overlay,
)
from tests.deploy.recorded_commands import VARIABLES, of_program, options, run_commands, write_programs
from tests.documents import Document
from tests.waiting import PATIENCE_S

PAGE = Document("docs/kubernetes.md")
SWITCH = "Switch to an autoscaler"
# In place of kubectl: runs what needs no cluster, prints what was applied last, and records what is applied.
CLUSTER = """#!/bin/sh
case "$1 $2" in
    "apply view-last-applied") cat "$COMMANDS.applied" ;;
    "apply set-last-applied") cat > "$COMMANDS.set" ;;
    "apply --server-side") case "$*" in *--filename=-*) cat >> "$COMMANDS.applied" ;; esac ;;
    *) exec "$KUBECTL" "$@" ;;
esac
"""


def run_in_cluster(shell: str, folder: Path) -> None:
    """Run commands in a folder, with `CLUSTER` as kubectl; skip the test if there is no kubectl."""
    if (reason := kubectl_problem()) is not None:
        pytest.skip(reason)
    programs = [str(write_programs(folder, CLUSTER)), str(Path(sys.executable).parent), os.environ["PATH"]]
    env = {**os.environ, **VARIABLES, "KUBECTL": str(shutil.which("kubectl")), "COMMANDS": str(folder / "commands")}
    env["PATH"] = os.pathsep.join(programs)
    completed = subprocess.run(
        ["sh", "-euc", shell], env=env, capture_output=True, text=True, timeout=PATIENCE_S, cwd=folder
    )
    assert (completed.returncode, completed.stderr) == (0, "")


def example(language: str, heading: str, containing: str = "") -> str:
    """Return the example of the page below a heading that contains a text."""
    (text,) = [text for title, text in PAGE.examples(language) if title == heading and containing in text]
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the repository's manifests and without overlays of its own."""
    folder = tmp_path_factory.mktemp("kubernetes")
    (folder / "Dockerfile").symlink_to(ROOT / "Dockerfile")
    (folder / "deploy/k8s/overlays").mkdir(parents=True)
    for name in ("base", "components", "create-secrets", *(f"overlays/{path.name}" for path in K8S.glob("overlays/*"))):
        (folder / "deploy/k8s" / name).symlink_to(K8S / name)
    return folder


@pytest.fixture(scope="module")
def commands(folder: Path) -> list[list[str]]:
    """Return the recorded commands of the page."""
    return run_commands(PAGE, folder)


def test_applied_files_exist(commands: list[list[str]], folder: Path) -> None:
    """The manifests that are applied exist."""
    for arguments in of_program(commands, "kubectl", "apply"):
        for kustomization in options(arguments, "kustomize"):
            assert (folder / kustomization / "kustomization.yaml").exists()
        for file in options(arguments, "filename"):
            assert file == "-" or Path(file).exists()


def test_the_vault_gets_what_the_components_read(commands: list[list[str]], folder: Path) -> None:
    """The commands store each secret that `csi-secrets` reads, from a file that exists."""
    providers = [obj for obj in render("overlays/azure") if obj["kind"] == "SecretProviderClass"]
    text = "\n".join(provider["spec"]["parameters"]["objects"] for provider in providers)
    stored = of_program(commands, "az", "keyvault", "secret", "set")
    assert {options(arguments, "name")[0] for arguments in stored} == set(re.findall("objectName: (.*)", text))
    for arguments in stored:
        assert (folder / options(arguments, "file")[0]).stat().st_size > 0


def test_azure_gets_the_alerts_with_their_parameters(commands: list[list[str]], folder: Path) -> None:
    """The template exists, and the command sets each of its parameters without a default; so does the dashboard."""
    (arguments,) = of_program(commands, "az", "deployment", "group", "create")
    (template,) = options(arguments, "template-file")
    parameters = json.loads((folder / template).read_text())["parameters"]
    required = {name for name, parameter in parameters.items() if "defaultValue" not in parameter}
    assert {argument.partition("=")[0] for argument in arguments if "=" in argument} == required
    (dashboard,) = of_program(commands, "az", "grafana", "dashboard", "create")
    assert (folder / options(dashboard, "definition")[0]).exists()


def test_each_identity_reads_only_the_secrets_of_its_service() -> None:
    """The table gives it a role on the secrets that its provider names: a worker never reads the key of tokens."""
    providers = objects_of_kind(render("overlays/azure"), "SecretProviderClass")
    objects = {name: provider["spec"]["parameters"]["objects"] for name, provider in providers.items()}
    readable = {row[0]: set(re.findall("`(headway-.*?)`", row[2])) for row in PAGE.table("On AKS") if row[0] != "keda"}
    assert readable == {name: set(re.findall("objectName: (.*)", text)) for name, text in objects.items()}
    assert readable["worker"] == {"headway-report-key"}


def test_identities_trust_existing_accounts() -> None:
    """Each service account of the table is in the manifests, except that of KEDA's operator."""
    accounts = objects_of_kind(render("overlays/azure"), "ServiceAccount")
    trusted = {row[0]: row[1].strip("`").split(":")[2:] for row in PAGE.table("On AKS") if row[0] != "keda"}
    assert trusted == {name: [obj["metadata"]["namespace"], name] for name, obj in accounts.items()}


def test_manifests_are_applied_in_one_way(commands: list[list[str]]) -> None:
    """A mixture of client-side and server-side apply would stop with conflicts, so all commands apply on the server."""
    for arguments in of_program(commands, "kubectl", "apply"):
        if arguments[0] not in ("view-last-applied", "set-last-applied"):
            assert "--server-side" in arguments
            assert ("--force-conflicts" in arguments) != bool(options(arguments, "field-manager"))
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"), ROOT / "Makefile"]
    for document in documents:
        for line in re.findall(r"kubectl apply (?!view-|set-).*", document.read_text()):
            assert "--server-side" in line or document.name == "CHANGELOG.md", line


def test_cluster_commands_name_objects(commands: list[list[str]]) -> None:
    """Services, Deployments and autoscalers that commands name are in the manifests, with the forwarded port."""
    objects = render("overlays/dev")
    (namespace,) = objects_of_kind(objects, "Namespace")
    assert {name for command in commands for name in options(command, "namespace")} == {namespace}
    services = objects_of_kind(objects, "Service")
    for arguments in of_program(commands, "kubectl", "--namespace", namespace):
        match arguments:
            case ["port-forward", target, ports]:
                service_ports = [port["port"] for port in services[target.removeprefix("service/")]["spec"]["ports"]]
                assert int(ports.partition(":")[2]) in service_ports
            case ["delete", "scaledobject", name]:
                assert name in objects_of_kind(render("overlays/azure"), "ScaledObject")
            case _:
                assert "deployment" in arguments


def test_autoscaler_gets_the_replicas_before_they_are_removed(commands: list[list[str]]) -> None:
    """Another field manager owns each number when the overlay without it is applied; otherwise Kubernetes sets 1."""
    shell = example("sh", SWITCH, "--field-manager")
    (deployments,) = re.findall("for deployment in (.*); do", shell)
    assert set(deployments.split()) == set(SCALERS.values())
    (document,) = re.findall(r"<<END\n(.*?)\nEND", shell, re.DOTALL)
    assert yaml.safe_load(document.replace("$replicas", "5").replace("$deployment", "worker")) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "worker"},
        "spec": {"replicas": 5},
    }
    applied = of_program(commands, "kubectl", "apply")
    handovers = [number for number, arguments in enumerate(applied) if options(arguments, "field-manager")]
    assert len(handovers) == len(deployments.split())
    following = applied[handovers[-1] + 1]
    assert options(following, "kustomize") == ["deploy/k8s/overlays/mine"]


def test_client_side_apply_forgets_the_replicas(tmp_path: Path) -> None:
    """After the commands, the last applied configuration differs in the number of replicas alone."""
    applied = deepcopy(objects_of_kind(render("base"), "Deployment")["worker"])
    (tmp_path / "commands.applied").write_text(json.dumps(applied))
    run_in_cluster(example("sh", SWITCH, "view-last-applied"), tmp_path)
    remembered = json.loads((tmp_path / "commands.set").read_text())
    del applied["spec"]["replicas"]
    assert remembered == applied


def test_create_secrets_creates_what_services_need(tmp_path: Path) -> None:
    """Each Secret has exactly the files that its service's settings name; a second run keeps the keys.

    No other user may read the files, not even one that all users could read before.
    """
    created = []
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "redis-url").touch(0o644)
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        run_in_cluster(f"{K8S}/create-secrets ../keys", tmp_path / run)
        created.append(list(yaml.safe_load_all((tmp_path / run / "commands.applied").read_text())))
    assert created[0] == created[1]
    assert {path.name for path in keys.iterdir() if path.stat().st_mode & 0o077} <= {"token.pub.pem"}
    secrets = {secret["metadata"]["name"]: secret for secret in created[0]}
    assert secrets.keys() == SERVICES.keys()
    for service, secret in secrets.items():
        assert (secret["kind"], secret["metadata"]["namespace"]) == ("Secret", "headway")
        assert secret["data"].keys() == secret_files(render("overlays/production"), service)
        assert all(secret["data"].values())


def test_overlay_sets_the_image_of_the_workers(tmp_path: Path) -> None:
    """With the page's lines in an overlay, workers run another image with its jobs."""
    lines = example("yaml", "Your jobs").replace("sha256:…", f"sha256:{'0' * 64}")
    objects = render(write_overlay(tmp_path, lines, of="overlays/production"))
    (container,) = objects_of_kind(objects, "Deployment")["worker"]["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("registry.example.org/own-jobs@")
    assert {"name": "WORKER_JOBS", "value": "measuring"} in container["env"]


def test_overlay_sets_the_number_of_replicas(tmp_path: Path) -> None:
    """With the page's lines in an overlay, a service has that number."""
    objects = render(write_overlay(tmp_path, example("yaml", "Scale", "replicas:"), of="overlays/production"))
    replicas = {name: obj["spec"]["replicas"] for name, obj in objects_of_kind(objects, "Deployment").items()}
    assert replicas == {"notifier": 5, "submitter": 2, "worker": 2}


def test_keda_reads_the_connection_string(tmp_path: Path) -> None:
    """With the page's lines in an overlay, KEDA uses the key of the Secret that the worker's settings name."""
    lines = example("yaml", "Scale", "secretTargetRef")
    objects = render(write_overlay(tmp_path, lines, of="overlays/production", components=["keda-worker"]))
    authentication = objects_of_kind(objects, "TriggerAuthentication")["queue"]
    (reference,) = authentication["spec"].pop("secretTargetRef")
    assert not authentication["spec"]
    assert reference["name"] == "worker"
    assert reference["key"] in secret_files(objects, "worker")
    (trigger,) = objects_of_kind(objects, "ScaledObject")["worker"]["spec"]["triggers"]
    assert trigger["metadata"].keys() == {"queueName", "queueLength", "queueLengthStrategy"}


def test_overlay_sets_the_limits_of_the_autoscalers(tmp_path: Path) -> None:
    """With the page's lines in an overlay, KEDA has the numbers that the worked example of docs/capacity.md needs."""
    lines = example("yaml", "Scale", "maxReplicaCount")
    scalers = objects_of_kind(
        render(write_overlay(tmp_path, lines, of="base", components=["keda-worker", "keda-notifier"])), "ScaledObject"
    )
    needed = {row[0]: row[2] for row in Document("docs/capacity.md").table("A worked example")}
    (trigger,) = scalers["worker"]["spec"]["triggers"]
    workers = needed[f"workers with `WORKER_CONCURRENCY={trigger['metadata']['queueLength']}`"]
    assert str(scalers["worker"]["spec"]["maxReplicaCount"]) == workers
    assert scalers["notifier"]["spec"]["minReplicaCount"] == 6
    assert needed["notifiers, by their connections"].endswith("five, and one to spare")


def test_the_gateway_accepts_the_route(tmp_path: Path) -> None:
    """The page's Gateway has the name, the namespace and the host of the HTTPRoute, and accepts its namespace."""
    gateway = yaml.safe_load(example("yaml", "The edge"))
    route = objects_of_kind(render("overlays/azure"), "HTTPRoute")["headway"]
    assert route["spec"]["parentRefs"] == [gateway["metadata"]]
    (listener,) = gateway["spec"]["listeners"]
    assert route["spec"]["hostnames"] == [listener["hostname"]]
    assert listener["allowedRoutes"]["namespaces"]["selector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": route["metadata"]["namespace"]
    }


def test_named_components_and_settings_exist() -> None:
    """The autoscalers of the table scale the service of their row, and the numbers are those of manifests and code."""
    objects = render("overlays/azure")
    keda, hpa = (objects_of_kind(objects, kind) for kind in ("ScaledObject", "HorizontalPodAutoscaler"))
    limits = {name: (obj["spec"]["minReplicaCount"], obj["spec"]["maxReplicaCount"]) for name, obj in keda.items()}
    limits |= {name: (obj["spec"]["minReplicas"], obj["spec"]["maxReplicas"]) for name, obj in hpa.items()}
    for service, components, _, pods, _ in PAGE.table("Scale"):
        names = re.findall("`([a-z-]+)`", components)
        assert {SCALERS[name] for name in names} == {service}
        assert pods == "{} to {}".format(*limits[service])
    providers = {name for row in PAGE.table("Secrets") for name in re.findall("`([a-z-]+)`", row[1])}
    assert providers <= set(documented_components())
    defaults = {row[0]: row[2] for row in PAGE.table("What limits a pod")}
    assert f"`MAX_CONNECTIONS` {number(SERVICES['notifier'], 'max_connections')} " in defaults["notifier"]
    assert defaults["worker"] == number(SERVICES["worker"], "worker_concurrency")


def number(settings_type: type[Settings], setting: str) -> str:
    """Return the default of a setting, with a comma between thousands."""
    return f"{default(settings_type, setting):,}"
