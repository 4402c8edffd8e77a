"""Unit tests of what operators do with jobs of other callers."""
