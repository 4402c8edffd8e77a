"""Exit with 0 if this Python can run Headway and create a virtual environment, otherwise with 1.

`make` runs this file with each Python that it finds, so the code must also work with an old one.
"""

import sys

MIN_VERSION = (3, 11)


def is_supported() -> bool:
    """Return whether this Python is recent enough and has `ensurepip`, which `venv` needs."""
    try:
        import ensurepip  # noqa: F401 - a package of its own on Debian
    except ImportError:
        return False
    return sys.version_info >= MIN_VERSION


if __name__ == "__main__":
    sys.exit(not is_supported())
