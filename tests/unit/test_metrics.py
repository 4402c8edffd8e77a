"""What the services measure, and the document that lists it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

import services.notifier.metrics
import services.runtime.metrics
import services.submitter.metrics
import services.worker.metrics
from dev.environment import ROOT
from services.runtime.unlocked_metrics import UnlockedCounter, UnlockedHistogram

DOC = (ROOT / "docs" / "metrics.md").read_text()
MODULES = {
    "Every service": services.runtime.metrics,
    "The submitter": services.submitter.metrics,
    "The worker": services.worker.metrics,
    "The notifier": services.notifier.metrics,
}
IDENTIFYING = {"job_id", "id", "user", "path", "ip", "token"}


class Measured(NamedTuple):
    """A metric as it was declared."""

    name: str
    kind: str | None
    labels: Sequence[str]
    question: str


def measured(module: ModuleType) -> list[Measured]:
    """Return a module's metrics in their order."""
    found = []
    for metric in vars(module).values():
        if isinstance(metric, MetricWrapperBase):
            found.append(Measured(metric._name, metric._type, metric._labelnames, metric._documentation))
        elif isinstance(metric, UnlockedCounter | UnlockedHistogram):
            found.append(Measured(metric.name, metric.kind, metric.label_names, metric.documentation))
    return found


def row(metric: Measured) -> str:
    """Write a metric as a line of the document's table."""
    name = metric.name + ("_total" if metric.kind == "counter" else "")
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{name}` | {metric.kind} | {labels} | {metric.question} |"


@pytest.mark.parametrize("heading", MODULES)
def test_the_document_lists_what_there_is(heading: str) -> None:
    """Each metric has its row, and each row its metric."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", DOC, re.DOTALL | re.MULTILINE)
    assert [line for line in section.splitlines() if line.startswith("| `")] == [
        row(metric) for metric in measured(MODULES[heading])
    ]


def test_nothing_else_is_told() -> None:
    """Whatever is registered anywhere has its place in one of these modules, or is the library's own."""
    registered = {family.name for family in REGISTRY.collect()}
    own = {name for name in registered if not name.startswith(("process_", "python_"))}
    assert own == {metric.name for module in MODULES.values() for metric in measured(module)}


@pytest.mark.parametrize("heading", MODULES)
def test_names_and_labels_follow_the_conventions(heading: str) -> None:
    """Base units, no label that could have any number of values, and a question as help."""
    for metric in measured(MODULES[heading]):
        assert metric.kind != "histogram" or metric.name.endswith("_seconds")
        assert not IDENTIFYING & set(metric.labels)
        assert metric.question.endswith("?")
