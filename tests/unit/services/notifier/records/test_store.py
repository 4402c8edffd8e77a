"""The store and the record script agree on what a snapshot is."""

from __future__ import annotations

import re

from services.notifier.records.scripts import SCRIPT
from services.notifier.records.store import SNAPSHOT_FIELDS


def test_snapshot_has_the_fields_of_the_script() -> None:
    """A read joins the same fields in the same order as a publication."""
    names, count = (
        re.search(pattern, SCRIPT.decode(), re.DOTALL)
        for pattern in (r"local RECORD_FIELDS = \{(.*?)\}", r"local SNAPSHOT_FIELDS = (\d+)")
    )
    assert names
    assert count
    assert tuple(re.findall(r"\w+", names[1]))[: int(count[1])] == SNAPSHOT_FIELDS
