"""Unit tests of the built-in jobs."""
