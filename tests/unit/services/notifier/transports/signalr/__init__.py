"""Unit tests of the notifier's transports."""
