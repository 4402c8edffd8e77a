"""Remove registry URLs from a package-lock.json, so that the lock works with any npm registry.

`python -m dev.npm_lock FILE` is a step of `make lock`. The integrity hashes of the packages stay.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def remove_urls(lock: str) -> str:
    """Return a package-lock.json without the fields of its packages that contain a URL."""
    content = json.loads(lock)
    for package in content["packages"].values():
        for field in [name for name, value in package.items() if "://" in json.dumps(value)]:
            del package[field]
    return json.dumps(content, indent=2) + "\n"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(remove_urls(file.read_text()))
