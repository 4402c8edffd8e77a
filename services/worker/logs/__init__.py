"""The logs of jobs: what handlers log and print, sent to the notifier."""
