"""The store and the record script agree on what a snapshot is, and damaged records and cancellations are logged."""

from __future__ import annotations

import re
from typing import Any, cast
from uuid import UUID

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from headway.contracts import OPTIONAL_SNAPSHOT_FIELDS, ProgressUrlReport, SubmittedJob, Timestamp
from headway.tokens import Grant
from services.notifier.records.keys import job_id_from_key
from services.notifier.records.record_read import READ_FIELDS, SNAPSHOT_FIELDS, RecordRead
from services.notifier.records.scripts import SCRIPT
from services.notifier.records.store import JobStore
from services.notifier.redis_client.connector import NodeAddress
from services.notifier.redis_client.topology import RedisClient, SlotNotCovered
from tests.reports import first_report

JOB_ID = "6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11"


def test_snapshot_has_the_fields_of_the_script() -> None:
    """A read joins the same fields in the same order as a publication; a heartbeat compares all but the version."""
    script = SCRIPT.decode()
    fields = re.search(r"local RECORD_FIELDS = \{(.*?)\}", script, re.DOTALL)
    assert fields
    names = (*SNAPSHOT_FIELDS, *OPTIONAL_SNAPSHOT_FIELDS)
    assert tuple(re.findall(r"\w+", re.sub("--.*", "", fields[1])))[: len(names)] == names
    published = re.findall(r"[{,]\"(\w+)\":' \.\. record\.(\w+)", function(script, "snapshot"))
    assert [name for name, value in published if name == value] == [*OPTIONAL_SNAPSHOT_FIELDS, *SNAPSHOT_FIELDS]
    compared = re.findall(r"new\.(\w+) == old\.(\w+)", function(script, "is_heartbeat"))
    assert {name for name, other in compared if name == other} == {*names, "labels", "worker"} - {
        "version",
        "updated_at",
    }


def function(script: str, name: str) -> str:
    """Return the text of a function of the script."""
    found = re.search(rf"local function {name}\(.*?\nend\n", script, re.DOTALL)
    assert found
    return found[0]


class FakeClient:
    """A Redis that answers each command with the same reply, or fails."""

    sharded = False

    def __init__(self, reply: Any) -> None:
        self.reply = reply

    async def execute(self, commands: list[Any]) -> list[Any]:
        if isinstance(self.reply, OSError):
            raise self.reply
        return [self.reply for _ in commands]


def store_with(reply: Any) -> JobStore:
    """Return a store over a Redis with one reply."""
    return JobStore(cast(RedisClient, FakeClient(reply)))


@pytest.mark.parametrize(
    ("reply", "is_logged"),
    [
        ([None] * len(READ_FIELDS), False),
        ([b"1", *[None] * (len(READ_FIELDS) - 1)], True),
        (ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), True),
    ],
)
async def test_damaged_record_is_logged_with_its_job(reply: Any, *, is_logged: bool) -> None:
    """A record without some field, or of another type, counts as missing; a job without a record is no fault."""
    with capture_logs() as lines:
        assert await store_with(reply).read([JOB_ID]) == [None]
    line = {"event": "invalid_record_ignored", "job_id": JOB_ID, "log_level": "warning"}
    assert lines == ([line] if is_logged else [])


async def test_cancellation_is_logged_with_its_job() -> None:
    """So is one that Redis has not confirmed."""
    now = Timestamp.now()
    grant = Grant(job_id=UUID(JOB_ID), kind="k", submitted_at=now, expires_at=now)
    with capture_logs() as lines:
        assert await store_with([b"{}", 0, None]).cancel(grant) == b"{}"
        assert await store_with(None).cancel(grant) is None
        with pytest.raises(ConnectionError):
            await store_with(ConnectionError()).cancel(grant)
    assert [(line["event"], line["job_id"]) for line in lines] == [
        ("cancel_applied", JOB_ID),
        ("cancel_not_confirmed", JOB_ID),
    ]


async def test_a_lost_reply_counts_as_a_transition() -> None:
    """The record may have changed. The reply to the repetition would not tell, and the index would miss the job."""
    noted: list[str] = []
    store = JobStore(cast(RedisClient, FakeClient(ConnectionError())), noted.append)
    now = Timestamp.now()
    end = now.after(60)
    job = SubmittedJob(id=UUID(JOB_ID), kind="k", submitted_at=now, expires_at=end)
    grant = Grant(job_id=job.id, kind="k", submitted_at=now, expires_at=end)
    changes = [
        store.apply_submissions([job]),
        store.apply_reports([first_report(job.id)]),
        store.apply_progress(ProgressUrlReport(job_id=job.id, progress=5), 60),
        store.cancel(grant),
    ]
    for count, change in enumerate(changes, 1):
        with pytest.raises(ConnectionError):
            await change
        assert noted == [JOB_ID] * count


class FakeCluster:
    """A cluster of two nodes, one of which is unavailable, and with slots that no node serves."""

    sharded = True

    def __init__(self) -> None:
        self.nodes = {"available": NodeAddress("a", 1), "unavailable": NodeAddress("b", 1)}

    def node_for_key(self, key: str) -> NodeAddress:
        try:
            return self.nodes[job_id_from_key(key)]
        except KeyError:
            raise SlotNotCovered from None

    async def execute(self, commands: list[tuple[str, Any]]) -> list[Any]:
        for key, _ in commands:
            if self.node_for_key(key) == self.nodes["unavailable"]:
                raise RedisConnectionError
        return [[b"1"] * len(READ_FIELDS) for _ in commands]


async def test_an_unavailable_node_does_not_hide_the_records_of_others() -> None:
    """Each record of a node that cannot be read, or that is unknown, is replaced by its error."""
    store = JobStore(cast(RedisClient, FakeCluster()))
    results = await store.read_available(["unavailable", "available", "uncovered"])
    assert isinstance(results["available"], RecordRead)
    assert isinstance(results["unavailable"], RedisConnectionError)
    assert isinstance(results["uncovered"], SlotNotCovered)
