"""The worker: receives jobs from the queue, runs their handlers and reports their progress to the notifier."""
