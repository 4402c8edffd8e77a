"""The submitter's access to the records of jobs."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from services.runtime.errors import ServiceUnavailable
from services.runtime.settings import ReloadingFile, read_keys
from services.submitter.operations.job_records import JobRecords


@pytest.mark.parametrize("has_url", [False, True])
async def test_the_error_names_the_settings_that_are_missing(tmp_path: Path, *, has_url: bool) -> None:
    """Without the notifier's address or a report key, no job can be read."""
    (tmp_path / "report.key").write_text("first\n")
    keys = ReloadingFile(tmp_path / "report.key", read_keys)
    async with JobRecords.connect("http://localhost" if has_url else None, None if has_url else keys) as records:
        with pytest.raises(ServiceUnavailable, match="NOTIFIER_INTERNAL_URL and REPORT_KEY_FILE") as raised:
            await records.read(uuid4())
        assert raised.value.retry_after_s == 2
