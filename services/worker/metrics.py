"""What the worker measures of its work."""

from prometheus_client import Counter, Gauge, Histogram

from headway.contracts import JobMessage, Timestamp

STARTED = Counter("jobs_started", "How many attempts were started?", ["kind"])
REDELIVERED = Counter("jobs_redelivered", "How many messages came for another time?")
JOBS = Counter("jobs_finished", "How many deliveries ended how?", ["kind", "outcome"])
DURATION = Histogram(
    "jobs_duration_seconds",
    "How long did a handler run?",
    ["kind"],
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
QUEUE_WAIT = Histogram(
    "jobs_queue_wait_seconds",
    "How long from submission, a delay included, to the first start?",
    ["kind"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800),
)
END_TO_END = Histogram(
    "jobs_end_to_end_seconds",
    "How long from submission, a delay included, to the reported end?",
    ["kind"],
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
IN_PROGRESS = Gauge("worker_jobs_in_progress", "How many jobs run now?")
CONCURRENCY = Gauge("worker_concurrency", "How many jobs may run at once?")
LAST_POLL = Gauge("worker_last_poll_timestamp_seconds", "When did the queue last answer?")
HINTS = Counter("worker_hints", "How many hints came that a message waits?")
HINTS_FLOW = Gauge("worker_hints_flow", "Would a hint come now?")
POISONED = Counter("jobs_poisoned", "How many messages went to the poison queue?", ["reason"])
REPORTS = Counter("worker_reports", "How many requests with reports had which outcome?", ["outcome"])
REPORT_DURATION = Histogram("worker_report_duration_seconds", "How long did a request with reports take?")
LEASE_RENEWALS = Counter("worker_lease_renewals", "How many renewals of a lease had which outcome?", ["outcome"])
LEASES_LOST = Counter("worker_leases_lost", "How many jobs were stopped because their lease was lost?")
QUEUE_MESSAGES = Gauge(
    "jobs_queue_messages", "How many messages are on the queue, about, leased and delayed ones too?", ["queue"]
)
QUEUE_AGE = Gauge(
    "jobs_queue_oldest_message_age_seconds", "How old is the message that is next, 0 if there is none?", ["queue"]
)
POISON_MESSAGES = Gauge("jobs_poison_messages", "How many messages are on the poison queue, about?", ["queue"])

for reason in ("unreadable", "attempts", "refused"):
    POISONED.labels(reason)
for outcome in ("renewed", "failed"):
    LEASE_RENEWALS.labels(outcome)


def since_submission(message: JobMessage, histogram: Histogram) -> None:
    """Measure the time since a job was submitted; what was redriven since then would say nothing."""
    if message.generation == 0 and message.submitted_at is not None:
        histogram.observe(max(0, Timestamp.now() - message.submitted_at) / 1000)
