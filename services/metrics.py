"""What every service measures of itself; what a service measures of its work stands in its own `metrics.py`."""

from importlib.metadata import version

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # otherwise every counter has a second series that nobody asks for

BUILD = Gauge("headway_build_info", "Which version runs here?", ["version"])
BUILD.labels(version("headway")).set(1)
REQUESTS = Counter("http_requests", "How many HTTP requests were answered?", ["method", "route", "code"])
REQUEST_DURATION = Histogram("http_request_duration_seconds", "How long did an answer take?", ["method", "route"])
