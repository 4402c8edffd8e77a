"""The submitter's metrics; the help text of each is a question."""

from prometheus_client import Counter, Histogram

SUBMISSIONS = Counter("jobs_submitted", "How many submissions were received?", ["outcome"])
SUBMISSIONS_POSTED = Counter("submissions_posted", "How many submissions were posted to the notifier?", ["outcome"])
OPERATOR_ACTIONS = Counter("operator_actions", "How many actions of operators were carried out?", ["action"])
ENQUEUE_DURATION = Histogram("jobs_enqueue_duration_seconds", "How long did the queue take to accept a job?")

for outcome in ("accepted", "limited", "error"):
    SUBMISSIONS.labels(outcome)
for outcome in ("accepted", "failed", "dropped"):
    SUBMISSIONS_POSTED.labels(outcome)
for action in ("redrive", "rerun", "erase", "discard", "bulk"):
    OPERATOR_ACTIONS.labels(action)
