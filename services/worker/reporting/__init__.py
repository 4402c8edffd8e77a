"""How attempts are reported to the notifier."""
