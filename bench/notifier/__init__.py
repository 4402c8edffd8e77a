"""`make bench-notifier`: what a report costs the notifier on its way to a thousand watchers, beside its peers."""
