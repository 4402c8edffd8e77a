"""Reports to the notifier, and its verdicts."""
