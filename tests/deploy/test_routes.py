"""Each proxy sends the paths of the notifier to it, and all others to the submitter."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import yaml  # type: ignore[import-untyped]

from dev.environment import ROOT
from services.notifier.transports.signalr.aspnet_core.handler import PATH as HUB_PATH
from services.notifier.transports.signalr.classic.handler import PATH as CLASSIC_PATH
from tests.documents import Document

NOTIFIER = [
    "/live",
    "/live/jobs/1/events",
    HUB_PATH,
    f"{HUB_PATH}/negotiate",
    f"{CLASSIC_PATH}/hubs",
    f"{CLASSIC_PATH}/connect",
]
SUBMITTER = ["/", "/jobs/1", "/lively", "/assets/live-url.js", "/dashboard"]


def haproxy_sends(path: str) -> bool:
    """Return whether the proxy of compose.yaml sends a path to the notifier."""
    config = (ROOT / "deploy/compose/haproxy.cfg").read_text()
    (exact, beginnings) = re.findall(r"use_backend notifier if { path (.*) } \|\| { path_beg (.*) }", config)[0]
    return path in exact.split() or path.startswith(tuple(beginnings.split()))


def ingress_sends(path: str) -> bool:
    """Return whether the Ingress sends a path to the notifier."""
    ingress = yaml.safe_load((ROOT / "deploy/k8s/components/ingress/ingress.yaml").read_text())
    rules = ingress["spec"]["rules"][0]["http"]["paths"]
    assert all(rule["pathType"] == "Prefix" for rule in rules)
    matching = [rule for rule in rules if f"{path}/".startswith(f"{rule['path'].rstrip('/')}/")]
    longest = max(matching, key=lambda rule: len(rule["path"]))
    return bool(longest["backend"]["service"]["name"] == "notifier")


def route_sends(path: str) -> bool:
    """Return whether the HTTPRoute of the Gateway API sends a path to the notifier."""
    route = yaml.safe_load((ROOT / "deploy/k8s/components/gateway/route.yaml").read_text())
    matches = [(match["path"], rule) for rule in route["spec"]["rules"] for match in rule["matches"]]
    assert all(match["type"] == "PathPrefix" for match, _ in matches)
    matching = [each for each in matches if f"{path}/".startswith(f"{each[0]['value'].rstrip('/')}/")]
    _, longest = max(matching, key=lambda each: len(each[0]["value"]))
    return bool(longest["backendRefs"][0]["name"] == "notifier")


def nginx_sends(path: str) -> bool:
    """Return whether the configuration in the documentation sends a path to the notifier."""
    ((_, config),) = Document("docs/run-in-production.md").examples("nginx")
    (pattern,) = re.findall(r"location ~ (\S+) {", config)
    return re.search(pattern, path) is not None


@pytest.mark.parametrize("sends", [haproxy_sends, ingress_sends, route_sends, nginx_sends])
def test_paths_of_the_notifier(sends: Callable[[str], bool]) -> None:
    """Its own transports and those of both generations of SignalR reach it; pages and the API do not."""
    assert [path for path in NOTIFIER + SUBMITTER if sends(path)] == NOTIFIER
