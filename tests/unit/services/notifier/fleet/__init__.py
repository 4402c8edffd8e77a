"""Unit tests of the lists of workers and kinds."""
