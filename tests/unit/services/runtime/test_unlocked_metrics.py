"""Metrics without a lock."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY, Counter, Histogram

from services.runtime.unlocked_metrics import UnlockedCounter, UnlockedHistogram


def test_samples_are_those_of_prometheus_client() -> None:
    """Equal observations are exposed as equal samples by the metrics of both kinds."""
    exposed = []
    for counter_type, histogram_type in ((Counter, Histogram), (UnlockedCounter, UnlockedHistogram)):
        counter = counter_type("sample", "How many?", ["kind", "code"])
        histogram = histogram_type("sample_seconds", "How long?", ["kind"], buckets=(0.1, 1, 2.5))
        with_default_buckets = histogram_type("sample_default_seconds", "How long?", ["kind"])
        for amount in (1, 4):
            counter.labels("one", 200).inc(amount)
        counter.labels("other", 404).inc()
        for value in (0, 0.1, 0.11, 1, 2.5, 2.6, 99):
            histogram.labels("one").observe(value)
            with_default_buckets.labels("one").observe(value)
        exposed.append([*counter.collect(), *histogram.collect(), *with_default_buckets.collect()])
        for metric in (counter, histogram, with_default_buckets):
            REGISTRY.unregister(metric)
    assert exposed[0] == exposed[1]


def test_equal_label_values_are_one_series() -> None:
    """A number and its text are the same label value, as in prometheus-client."""
    metric = UnlockedCounter("sample_codes", "How many?", ["method", "code"])
    try:
        assert metric.labels("GET", 200) is metric.labels("GET", "200") is metric.labels("GET", 200)
        metric.labels("GET", "404").inc()
        metric.labels("GET", 404).inc(2)
        (family,) = metric.collect()
        assert [(sample.labels["code"], sample.value) for sample in family.samples] == [("200", 0), ("404", 3)]
    finally:
        REGISTRY.unregister(metric)


@pytest.mark.parametrize("metric_type", [Counter, UnlockedCounter, UnlockedHistogram])
def test_a_wrong_number_of_label_values_is_an_error(metric_type: type[Counter]) -> None:
    """Too few and too many values raise ValueError as in prometheus-client, and add no series."""
    metric = metric_type("sample_labels", "How many?", ["method", "code"])
    try:
        for values in ((), ("GET",), ("GET", 200, "more")):
            with pytest.raises(ValueError, match="Incorrect label count"):
                metric.labels(*values)
        assert [sample for family in metric.collect() for sample in family.samples] == []
    finally:
        REGISTRY.unregister(metric)
