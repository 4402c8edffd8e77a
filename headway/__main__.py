"""Run the `headway` command: `python -m headway`."""

import sys

from headway.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
