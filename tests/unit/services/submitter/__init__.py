"""Unit tests of the submitter."""
