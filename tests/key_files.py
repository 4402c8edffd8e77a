"""Key files that change while a service runs."""

from __future__ import annotations

from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Replace a file, so that it has another inode: the clock of modification times is coarse."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)
