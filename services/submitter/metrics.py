"""What the submitter measures of its work."""

from prometheus_client import Counter

SUBMITTED = Counter("jobs_submitted", "How many submissions were there?", ["outcome"])
