"""Locks for state that must be complete in a forked process, which has none of the threads that change it."""

import os
from threading import RLock


def fork_lock() -> RLock:
    """Return a lock that is free in forked processes: a fork waits while another thread holds it."""
    lock = RLock()
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
