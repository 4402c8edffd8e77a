"""Unit tests of the logs of jobs."""
