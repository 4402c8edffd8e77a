"""What the notifier measures of its work."""

from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

from headway.contracts import Reason

from ..runtime.unlocked_metrics import UnlockedCounter, UnlockedHistogram

LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

REPORTS = UnlockedCounter("notifier_reports", "How many reports got which verdict?", ["verdict"])
CONNECTIONS = Gauge("notifier_connections", "How many connections are open?", ["transport"])
OPENED = UnlockedCounter("notifier_connections_opened", "How many connections were opened?", ["transport"])
CLOSED = UnlockedCounter(
    "notifier_connections_closed", "How many connections were closed, and how?", ["transport", "code"]
)
CONNECTION_DURATION = UnlockedHistogram(
    "notifier_connection_duration_seconds",
    "How long was a connection open?",
    ["transport"],
    buckets=(0.1, 1, 5, 30, 60, 300, 900, 3600, 14_400),
)
PING_RTT = Histogram("notifier_ping_rtt_seconds", "How long did sockets take to answer a ping?", buckets=LATENCY)
SUBSCRIPTIONS = Gauge("notifier_subscriptions", "How many watches of jobs are there?")
SENT = UnlockedCounter("notifier_messages_sent", "How many snapshots were given to connections?")
SENT_BYTES = UnlockedCounter("notifier_sent_bytes", "How many bytes of snapshots were that?")
RECEIVED = Counter("notifier_messages_received", "How many messages came over sockets?")
DROPPED = Counter(
    "notifier_messages_dropped", "How many snapshots were replaced by newer ones unsent, and why?", ["reason"]
)
RESUMES = Counter(
    "notifier_resumes", "How many watchers came back with a version, and was the record still there?", ["outcome"]
)
WATCHED = Gauge("notifier_watched_jobs", "How many jobs does this replica watch?")
RECONNECTS = Counter("notifier_pubsub_reconnects", "How often was the subscription to Redis made anew?")
REFRESHED = Counter("notifier_records_read", "How many records were read for watchers?")
WAITING = Gauge("notifier_waiting_workers", "How many workers wait for a hint here?")
WAKES = Counter(
    "notifier_wakes", "How many wake hints were answered to a worker, or kept since none waited?", ["outcome"]
)
REDIS_UP = Gauge("notifier_redis_up", "Does this replica hear Redis?")
REDIS_DURATION = UnlockedHistogram(
    "notifier_redis_operation_duration_seconds", "How long did Redis take?", ["op"], buckets=LATENCY
)
REDIS_ERRORS = Counter("notifier_redis_errors", "How often was Redis away, or what it did in doubt?", ["op"])
REFUSED = Counter("notifier_refused", "How much was refused because of which limit?", ["limit"])
DELIVERY_LATENCY = UnlockedHistogram(
    "notifier_delivery_latency_seconds",
    "How long from a worker's sending of a report to the write to its job's watchers here?",
    buckets=LATENCY,
)
PUBSUB_LAG = UnlockedHistogram(
    "notifier_pubsub_lag_seconds",
    "How long from a change's time in Redis to the write to its job's watchers?",
    buckets=LATENCY,
)

for verdict in ("accepted", *get_args(Reason)):
    REPORTS.labels(verdict)
for transport in ("websocket", "sse", "poll"):
    CONNECTIONS.labels(transport)
    OPENED.labels(transport)
    CONNECTION_DURATION.labels(transport)
DROPPED.labels("slow")
for outcome in ("hit", "miss"):
    RESUMES.labels(outcome)
for op in ("report", "progress", "cancel", "read"):
    REDIS_DURATION.labels(op)
    REDIS_ERRORS.labels(op)
for outcome in ("answered", "kept"):
    WAKES.labels(outcome)
for limit in ("connections", "watches", "messages", "message_size", "binary", "first_message", "stuck"):
    REFUSED.labels(limit)
