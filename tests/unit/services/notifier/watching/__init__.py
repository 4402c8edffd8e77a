"""Unit tests of the notifier's hub and snapshots."""
