"""Unit tests of the reports to the notifier."""
