"""The ways to watch."""
