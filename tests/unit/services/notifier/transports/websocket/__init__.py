"""Unit tests of the notifier's WebSockets."""
