"""Unit tests of the notifier's endpoints for reports."""
