"""The notifier's metrics; the help text of each is a question."""

from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

from headway.contracts import RejectionReason
from headway.details import LogRejection

from ..runtime.unlocked_metrics import UnlockedCounter, UnlockedHistogram

FIRST_PRIVATE_CLOSE_CODE = 3000  # this and higher codes, which have no registered meaning, are counted as one
LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

REPORTS = UnlockedCounter("notifier_reports", "How many reports were answered with each verdict?", ["verdict"])
SUBMISSIONS = UnlockedCounter("notifier_submissions", "How many submitted jobs were received?")
CONNECTIONS = Gauge("notifier_connections", "How many connections are open?", ["transport"])
MAX_CONNECTIONS = Gauge("notifier_max_connections", "How many connections does this replica accept?")
CONNECTIONS_OPENED = UnlockedCounter("notifier_connections_opened", "How many connections were opened?", ["transport"])
CONNECTIONS_CLOSED = UnlockedCounter(
    "notifier_connections_closed", "How many connections were closed, and with which code?", ["transport", "code"]
)
CONNECTIONS_SENT_AWAY = UnlockedCounter(
    "notifier_connections_sent_away", "How many connections were closed because Redis was lost?", ["transport"]
)
CONNECTION_DURATION = UnlockedHistogram(
    "notifier_connection_duration_seconds",
    "How long were connections open?",
    ["transport"],
    buckets=(0.1, 1, 5, 30, 60, 300, 900, 3600, 14_400),
)
PING_RTT = Histogram(
    "notifier_ping_rtt_seconds", "How long did WebSocket clients take to answer a ping?", buckets=LATENCY_BUCKETS_S
)
SUBSCRIPTIONS = Gauge("notifier_subscriptions", "How many subscriptions to jobs are open?")
SNAPSHOTS_SENT = UnlockedCounter("notifier_messages_sent", "How many snapshots were sent to clients?")
SNAPSHOT_BYTES_SENT = UnlockedCounter("notifier_sent_bytes", "How many bytes of snapshots were sent to clients?")
MESSAGES_RECEIVED = Counter("notifier_messages_received", "How many messages did WebSocket clients send?")
SNAPSHOTS_REPLACED = Counter(
    "notifier_messages_dropped", "How many unsent snapshots were replaced by newer ones, and why?", ["reason"]
)
RESUMES = Counter(
    "notifier_resumes",
    "How many subscriptions named a version that the client already had, and did the job still have a record?",
    ["outcome"],
)
LIVE_LISTS = Gauge("notifier_live_lists", "How many live lists do clients show?")
LIVE_LIST_QUERIES = Gauge(
    "notifier_live_list_queries",
    "How many different live lists does this replica read, and are their changes announced, or are they polled?",
    ["changes"],
)
LIVE_LISTS_READ = Counter("notifier_live_lists_read", "How often was a live list read?")
WATCHED_JOBS = Gauge("notifier_watched_jobs", "How many jobs have at least one watcher on this replica?")
STALEST_RUNNING_JOB = Gauge(
    "notifier_stalest_running_job_seconds",
    "How long ago did the watched running job with the oldest news change (0 without one)?",
)
RECONNECTS = Counter("notifier_pubsub_reconnects", "How often did a lost subscription to Redis reconnect?")
RECORDS_READ = Counter("notifier_records_read", "How many job records were read to update watchers?")
WAITING_WORKERS = Gauge("notifier_waiting_workers", "How many workers wait for a wake-up on this replica?")
WAKEUPS = Counter(
    "notifier_wakes", "How many wake-ups were sent to a waiting worker, or kept because none waited?", ["outcome"]
)
CONTROL_STREAMS = Gauge("notifier_control_streams", "How many workers have a control stream to this replica?")
CONTROL_MESSAGES = Counter(
    "notifier_control_messages", "How often was a worker asked for reports, or could not be asked?", ["outcome"]
)
REDIS_UP = Gauge("notifier_redis_up", "Are all subscriptions of this replica to Redis healthy?")
REDIS_DURATION = UnlockedHistogram(
    "notifier_redis_operation_duration_seconds",
    "How long did operations on job records in Redis take?",
    ["op"],
    buckets=LATENCY_BUCKETS_S,
)
REDIS_ERRORS = Counter(
    "notifier_redis_errors", "How many operations on job records failed or had an unknown outcome?", ["op"]
)
REDIS_FULL = Gauge(
    "notifier_redis_full", "Is the memory of Redis so full that this replica writes nothing but job records?"
)
INDEX_WRITTEN = Counter("notifier_index_written", "How often was a job's entry in the lists of jobs written?")
INDEX_SKIPPED = Counter(
    "notifier_index_skipped", "How many changes of jobs were not written to the lists of jobs, which are rebuilt later?"
)
LOG_APPENDS = UnlockedCounter("notifier_log_appends", "How many appends to jobs' logs got each answer?", ["verdict"])
LOG_BYTES = UnlockedCounter("notifier_log_bytes", "How many bytes of jobs' logs were received and accepted?")
LOG_SUBSCRIPTIONS = Gauge("notifier_log_subscriptions", "How many subscriptions to jobs' logs are open?")
LOG_BYTES_SENT = UnlockedCounter("notifier_log_sent_bytes", "How many bytes of jobs' logs were sent to clients?")
LOG_GAPS = UnlockedCounter("notifier_log_gaps", "How often was a part of a job's log missing?")
LIMITS_EXCEEDED = Counter("notifier_refused", "How often was each limit exceeded?", ["limit"])
WATCH_REFUSED = Counter(
    "notifier_watch_refused",
    "How many tokens or origins were refused, with which code, and for pages of which origin?",
    ["code", "origin"],
)
DELIVERY_LATENCY = UnlockedHistogram(
    "notifier_delivery_latency_seconds",
    "How long after a worker sent a report was the snapshot written to the watchers on this replica?",
    buckets=LATENCY_BUCKETS_S,
)
PUBSUB_LAG = UnlockedHistogram(
    "notifier_pubsub_lag_seconds",
    "How long after a change in Redis was the snapshot written to the watchers?",
    buckets=LATENCY_BUCKETS_S,
)

# Create each series now: Prometheus cannot compute the increase of a series that starts with its first event.
for verdict in ("accepted", *get_args(RejectionReason)):
    REPORTS.labels(verdict)
for verdict in ("accepted", *get_args(LogRejection)):
    LOG_APPENDS.labels(verdict)
TRANSPORTS = ("websocket", "sse", "poll")
CLOSE_CODES = (1000, 1006, 1008, 1009, 1011, 1012, 1013)
WEBSOCKET_CLOSE_CODES = (*CLOSE_CODES, 1001, 1002, 1003, 1005, 1007, FIRST_PRIVATE_CLOSE_CODE)
SIGNALR_TRANSPORTS = tuple(f"signalr_{kind}{each}" for kind in ("", "classic_") for each in TRANSPORTS)
for transport in TRANSPORTS + SIGNALR_TRANSPORTS:
    CONNECTIONS.labels(transport)
    CONNECTIONS_OPENED.labels(transport)
    CONNECTIONS_SENT_AWAY.labels(transport)
    CONNECTION_DURATION.labels(transport)
    for close_code in WEBSOCKET_CLOSE_CODES if transport.endswith("websocket") else CLOSE_CODES:
        CONNECTIONS_CLOSED.labels(transport, close_code)
SNAPSHOTS_REPLACED.labels("slow")
for outcome in ("hit", "miss"):
    RESUMES.labels(outcome)
for op in ("submission", "report", "progress", "cancel", "erase", "read"):
    REDIS_DURATION.labels(op)
    REDIS_ERRORS.labels(op)
for outcome in ("answered", "kept"):
    WAKEUPS.labels(outcome)
for outcome in ("published", "failed"):
    CONTROL_MESSAGES.labels(outcome)
for limit in (
    "connections",
    "watches",
    "messages",
    "message_size",
    "binary",
    "first_message",
    "stuck",
    "tokens",
    "lists",
    "pages",
    "stored_bytes",
):
    LIMITS_EXCEEDED.labels(limit)
