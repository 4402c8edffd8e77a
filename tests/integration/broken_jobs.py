"""A kind of job that fails until a file exists, for tests that run jobs again."""

import os
from pathlib import Path

from headway import Fail, JobContext, job
from tests.integration.handler_log import log_call

REPAIRED_VARIABLE = "REPAIRED_FILE"  # the environment variable with the path of the file


@job("broken", keep="always")
async def broken(ctx: JobContext, payload: dict[str, int]) -> int:
    """Return the number of the payload, once the file exists."""
    with log_call(ctx):
        if not Path(os.environ[REPAIRED_VARIABLE]).exists():
            raise Fail("The address book is missing.")
        return payload["number"]
