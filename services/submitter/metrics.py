"""The submitter's metrics."""

from prometheus_client import Counter, Histogram

SUBMITTED = Counter("jobs_submitted", "How many submissions were received?", ["outcome"])
ENQUEUE_DURATION = Histogram("jobs_enqueue_duration_seconds", "How long did the queue take to accept a job?")

for outcome in ("accepted", "limited", "error"):
    SUBMITTED.labels(outcome)
