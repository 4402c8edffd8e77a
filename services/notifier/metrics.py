"""What the notifier measures of its work."""

from prometheus_client import Counter, Gauge

REPORTS = Counter("notifier_reports", "How many reports got which verdict?", ["verdict"])
CONNECTIONS = Gauge("notifier_connections", "How many connections are open?", ["transport"])
WATCHED = Gauge("notifier_watched_jobs", "How many jobs does this replica watch?")
RECONNECTS = Counter("notifier_pubsub_reconnects", "How often was the subscription to Redis made anew?")
REFRESHED = Counter("notifier_records_read", "How many records were read for watchers?")
REFUSED = Counter("notifier_refused", "How much was refused because of which limit?", ["limit"])
