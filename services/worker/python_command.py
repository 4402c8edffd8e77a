"""The command line of another Python process that imports modules from the same folders as the worker."""

from __future__ import annotations

import sys


def python_command(code: str, *arguments: str) -> tuple[str, ...]:
    """Return a command that runs Python code with the `sys.path` of this process."""
    return (sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}", *arguments)
