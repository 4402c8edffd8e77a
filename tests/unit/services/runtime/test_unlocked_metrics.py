"""Metrics without a lock."""

from __future__ import annotations

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
