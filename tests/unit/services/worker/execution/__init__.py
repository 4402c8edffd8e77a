"""Unit tests of the execution of handlers."""
