"""The metrics of the services, and the document that lists them."""

from __future__ import annotations

import ast
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from prometheus_client import REGISTRY, Counter
from prometheus_client.metrics import MetricWrapperBase

import services.notifier.metrics
import services.runtime.metrics
import services.runtime.queue_metrics
import services.submitter.metrics
import services.worker.metrics
from dev.environment import ROOT
from headway import __version__
from headway.contracts import SCHEMA_VERSION
from services.runtime.unlocked_metrics import UnlockedCounter, UnlockedHistogram
from tests.documents import Document

PAGE = Document("docs/metrics.md")
MODULES = {
    "Every service": services.runtime.metrics,
    "Submitter and worker: the queue": services.runtime.queue_metrics,
    "The submitter": services.submitter.metrics,
    "The worker": services.worker.metrics,
    "The notifier": services.notifier.metrics,
}
COUNTERS = (Counter, UnlockedCounter)
UNBOUNDED_LABELS = {"job_id", "id", "user", "path", "ip", "token"}


class DeclaredMetric(NamedTuple):
    """A metric as its module declares it."""

    name: str
    kind: str | None
    labels: Sequence[str]
    help_text: str


def declared_metrics(module: ModuleType) -> list[DeclaredMetric]:
    """Return the metrics of a module, in the order of their declarations."""
    found = []
    for metric in vars(module).values():
        if isinstance(metric, MetricWrapperBase):
            found.append(DeclaredMetric(metric._name, metric._type, metric._labelnames, metric._documentation))
        elif isinstance(metric, UnlockedCounter | UnlockedHistogram):
            found.append(DeclaredMetric(metric.name, metric.kind, metric.label_names, metric.documentation))
    return found


def row(metric: DeclaredMetric) -> list[str]:
    """Return a metric as a row of the page's table."""
    name = metric.name + ("_total" if metric.kind == "counter" else "")
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return [f"`{name}`", str(metric.kind), labels, metric.help_text]


@pytest.mark.parametrize("heading", MODULES)
def test_every_metric_is_documented(heading: str) -> None:
    """Each metric has its row, and each row has its metric."""
    assert PAGE.table(heading) == [row(metric) for metric in declared_metrics(MODULES[heading])]


def test_every_metric_is_declared_in_one_of_these_modules() -> None:
    """The only other metrics in the registry are those that prometheus_client adds."""
    registered = {family.name for family in REGISTRY.collect()}
    own = {name for name in registered if not name.startswith(("process_", "python_"))}
    assert own == {metric.name for module in MODULES.values() for metric in declared_metrics(module)}


def constants(node: ast.expr) -> set[str]:
    """Return the texts that an expression may be, as far as they stand in it."""
    match node:
        case ast.Constant(str(text)):
            return {text}
        case ast.IfExp(body=body, orelse=orelse):
            return constants(body) | constants(orelse)
    return set()


def used_labels(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Yield the names of a service's metrics with one label, each with a value that the service's code uses."""
    assert module.__file__ is not None
    for file in Path(module.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(ast.Attribute(ast.Attribute(attr=name), "labels"), [value]):
                    yield from ((name, text) for text in constants(value))
                case ast.Call(ast.Attribute(attr="close_over_limit"), [limit, *_]):
                    yield from (("LIMITS_EXCEEDED", text) for text in constants(limit))
                case ast.Call(ast.Attribute(attr="_poison" | "move_to_poison_queue"), [reason, *_]):
                    yield from (("MESSAGES_POISONED", text) for text in constants(reason))
                case ast.Call(ast.Attribute(attr="_change" | "_run"), [op, _] | [op, _, _]):
                    yield from (("REDIS_ERRORS", text) for text in constants(op))
                case ast.Call(ast.Name("log_action"), [action, *_]):
                    yield from (("OPERATOR_ACTIONS", text) for text in constants(action))


@pytest.mark.parametrize("module", [services.submitter.metrics, services.worker.metrics, services.notifier.metrics])
def test_counters_have_the_labels_that_the_code_uses(module: ModuleType) -> None:
    """Each value in the code has its series before its first event: Prometheus sees no increase from none to 1."""
    used = {(name, text) for name, text in used_labels(module) if isinstance(getattr(module, name), COUNTERS)}
    created = {
        (name, value)
        for name, metric in vars(module).items()
        if isinstance(metric, COUNTERS)
        for family in metric.collect()
        for sample in family.samples
        for value in sample.labels.values()
    }
    assert used
    assert used <= created


def test_build_info_names_the_version_of_the_image() -> None:
    """Version and revision are those that the image's build set; otherwise the version is that of the package."""
    for environ, labels in (
        ({"HEADWAY_VERSION": "1.2.3", "HEADWAY_REVISION": "abc"}, ("1.2.3", "abc")),
        ({"HEADWAY_VERSION": ""}, (__version__, "unknown")),
    ):
        services.runtime.metrics.set_build_info(environ)
        python = platform.python_version()
        version, revision = labels
        expected = {"version": version, "revision": revision, "python": python, "headway_schema": str(SCHEMA_VERSION)}
        assert REGISTRY.get_sample_value("headway_build_info", expected) == 1
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert 'ENV HEADWAY_VERSION="${VERSION}" HEADWAY_REVISION="${REVISION}"' in dockerfile


@pytest.mark.parametrize("heading", MODULES)
def test_names_and_labels_follow_the_conventions(heading: str) -> None:
    """A metric has base units, no label with an unbounded number of values, and a question as its help."""
    for metric in declared_metrics(MODULES[heading]):
        assert metric.kind != "histogram" or metric.name.endswith("_seconds")
        assert not UNBOUNDED_LABELS & set(metric.labels)
        assert metric.help_text.endswith("?")
