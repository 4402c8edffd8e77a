"""Unit tests of the notifier's Redis client."""
