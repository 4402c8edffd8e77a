"""The worker: takes jobs off the queue, runs their handlers, and reports every step to the notifier."""
