"""Execution of attempts: in the event loop, in threads and in processes."""
