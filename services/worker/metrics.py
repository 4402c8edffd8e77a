"""The worker's metrics; the help text of each is a question."""

from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

from ..runtime.metrics import exemplar
from .outcomes import Interruption
from .received_job import ReceivedJob

ATTEMPTS_STARTED = Counter("jobs_started", "How many attempts were started?", ["kind"])
MESSAGES_REDELIVERED = Counter("jobs_redelivered", "How many messages were delivered again?")
DELIVERIES_FINISHED = Counter(
    "jobs_finished", "How many deliveries ended, and with which outcome?", ["kind", "outcome"]
)
HANDLER_DURATION = Histogram(
    "jobs_duration_seconds",
    "How long did handlers run?",
    ["kind"],
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
QUEUE_WAIT = Histogram(
    "jobs_queue_wait_seconds",
    "How long did jobs wait, from when they were due to their first start?",
    ["kind"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800),
)
END_TO_END = Histogram(
    "jobs_end_to_end_seconds",
    "How long did jobs take, from when they were due to their reported end?",
    ["kind"],
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
ATTEMPTS_ABANDONED = Counter(
    "jobs_abandoned",
    "How many attempts were abandoned, because their handler did not stop at its time limit?",
    ["kind"],
)
HANDLERS_ABANDONED = Gauge(
    "worker_abandoned_handlers", "How many handlers still run in a slot, although their attempt was abandoned?"
)
LOOP_BLOCKED = Counter(
    "worker_loop_blocked_seconds", "How many seconds did handlers block the event loop (from a second on)?", ["kind"]
)
JOBS_RUNNING = Gauge("worker_jobs_in_progress", "How many jobs are running now?")
CONCURRENCY = Gauge("worker_concurrency", "How many jobs can run at the same time?")
LAST_POLL = Gauge("worker_last_poll_timestamp_seconds", "When did the queue last answer?")
WAKEUPS_RECEIVED = Counter("worker_hints", "How many wake-ups did this worker receive?")
WAKEUPS_CONNECTED = Gauge("worker_hints_flow", "Can the notifier wake this worker now?")
CONTROL_CONNECTED = Gauge("worker_control_connected", "Can the notifier ask this worker for reports now?")
CONTROL_MESSAGES = Counter("worker_control_messages", "How often did the notifier ask this worker for reports?")
MESSAGES_POISONED = Counter("jobs_poisoned", "How many messages were copied to the poison queue, and why?", ["reason"])
FOLLOW_UPS = Counter(
    "worker_follow_ups", "How often was a follow-up job submitted, and with which outcome?", ["outcome"]
)
NOTIFIER_UNAVAILABLE = Gauge(
    "worker_notifier_unavailable", "Does this worker receive no jobs, because the notifier accepts no reports?"
)
REPORT_REQUESTS = Counter(
    "worker_reports", "How many requests were sent to the notifier, and with which outcome?", ["outcome"]
)
REPORT_DURATION = Histogram("worker_report_duration_seconds", "How long did requests with reports take?")
LEASE_RENEWALS = Counter(
    "worker_lease_renewals", "How many lease renewals were tried, and with which outcome?", ["outcome"]
)
LEASES_LOST = Counter("worker_leases_lost", "How many jobs were stopped because their lease was lost?")
LOG_REQUESTS = Counter(
    "worker_log_requests", "How many requests with jobs' logs were sent, and with which outcome?", ["outcome"]
)
LOG_BYTES_SENT = Counter("worker_log_bytes", "How many bytes of jobs' logs did the notifier accept?")
LOG_BYTES_LEFT_OUT = Counter(
    "worker_log_bytes_left_out", "How many bytes were left out of jobs' logs: too many, refused, or not sent in time?"
)

# The statuses with which a delivery ends, and its interruptions.
OUTCOMES = ("succeeded", "failed", "cancelled", "retrying", *(name.lower() for name in Interruption.__members__))

for reason in ("unreadable", "attempts", "refused", "abandoned"):
    MESSAGES_POISONED.labels(reason)
for outcome in ("renewed", "failed"):
    LEASE_RENEWALS.labels(outcome)
for outcome in ("submitted", "failed"):
    FOLLOW_UPS.labels(outcome)
# The statuses of the notifier, and of proxies in front of it.
STATUSES = (200, 400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 502, 503, 504)
for outcome in (*map(str, STATUSES), "unreachable"):
    REPORT_REQUESTS.labels(outcome)
    LOG_REQUESTS.labels(outcome)


def create_series(kinds: Iterable[str]) -> None:
    """Create the series of each kind: Prometheus does not see the increase from no series to 1."""
    for kind in kinds:
        for outcome in OUTCOMES:
            DELIVERIES_FINISHED.labels(kind, outcome)
        for counter in (ATTEMPTS_STARTED, ATTEMPTS_ABANDONED, LOOP_BLOCKED):
            counter.labels(kind)
        for histogram in (HANDLER_DURATION, QUEUE_WAIT, END_TO_END):
            histogram.labels(kind)


def observe_since_due(job: ReceivedJob, histogram: Histogram) -> None:
    """Observe the seconds since a job was due, unless it was redriven, possibly long after it failed."""
    if job.message.generation == 0:
        seconds = max(0, job.received.queue_time() - job.due_at) / 1000
        histogram.observe(seconds, exemplar(job.trace))
