"""What the services measure, and the document that lists it."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

import services.metrics
import services.notifier.metrics
import services.submitter.metrics
import services.worker.metrics
from dev.environment import ROOT

DOC = (ROOT / "docs" / "metrics.md").read_text()
MODULES = {
    "Every service": services.metrics,
    "The submitter": services.submitter.metrics,
    "The worker": services.worker.metrics,
    "The notifier": services.notifier.metrics,
}
IDENTIFYING = {"job_id", "id", "user", "path", "ip", "token"}


def measured(module: ModuleType) -> list[MetricWrapperBase]:
    """Return a module's metrics in their order."""
    return [value for value in vars(module).values() if isinstance(value, MetricWrapperBase)]


def row(metric: MetricWrapperBase) -> str:
    """Write a metric as a line of the document's table."""
    name = metric._name + ("_total" if metric._type == "counter" else "")
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)
    return f"| `{name}` | {metric._type} | {labels} | {metric._documentation} |"


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
    assert own == {metric._name for module in MODULES.values() for metric in measured(module)}


@pytest.mark.parametrize("heading", MODULES)
def test_names_and_labels_follow_the_conventions(heading: str) -> None:
    """Base units, no label that could have any number of values, and a question as help."""
    for metric in measured(MODULES[heading]):
        assert metric._type != "histogram" or metric._name.endswith("_seconds")
        assert not IDENTIFYING & set(metric._labelnames)
        assert metric._documentation.endswith("?")
