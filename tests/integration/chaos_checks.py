"""What must hold for each job of the chaos test, given its snapshots, the log of its handlers, and the faults."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from headway.contracts import Timestamp
from tests.integration.chaos_system import WorkerFault
from tests.integration.handler_log import Entry, HandlerLog, format_entries
from tests.integration.worker_fleet import HEARTBEAT_S


class Plan(NamedTuple):
    """A job to submit, its expected outcome unless it is cancelled, and when to cancel it."""

    kind: str
    payload: Any
    outcome: str = "succeeded"
    result: Any = None
    cancel: str = "never"  # or "at once", "soon", "running"
    delay_s: int = 0


class Cancellation(NamedTuple):
    """The response to a cancellation, and its time."""

    at: float
    snapshot: dict[str, Any]


class JobStory(NamedTuple):
    """All that is known of a job at the end."""

    plan: Plan
    end: dict[str, Any]  # its last snapshot
    entries: HandlerLog
    cancellation: Cancellation | None
    worker_faults: Sequence[WorkerFault]

    def violations(self) -> list[str]:
        """Return a description of each violation."""
        found = [
            self._wrong_outcome(),
            self._started_too_late(),
            self._lost_checkpoint(),
            self._unexplained_attempt(),
            self._zombie(),
        ]
        return [f"{problem}\n{self.plan} {self.end}\n{format_entries(self.entries)}" for problem in found if problem]

    def _wrong_outcome(self) -> str | None:
        status, entries = self.end["status"], self.entries
        if status == "cancelled" and self.cancellation is not None:
            return None
        if status != self.plan.outcome:
            return f"{status} instead of {self.plan.outcome}"
        if status == "succeeded":
            result = entries.matching("end")[-1].attempt if self.plan.kind == "nap" else self.plan.result
            return None if entries.matching("end") and self.end["result"] == result else "has a wrong result"
        if entries.matching("raised"):
            return None
        fatal_faults = sum(fault.is_fatal for fault in self.worker_faults)  # a killed worker's job may not have raised
        return None if fatal_faults >= self.end["max_attempts"] else "failed, although no handler raised"

    def _started_too_late(self) -> str | None:
        if self.entries.started_after(Timestamp.parse(self.end["finished_at"]).after(HEARTBEAT_S)):
            return "started after its end"
        if self.cancellation is None or self.cancellation.snapshot["status"] != "cancelled":
            return None
        never_started = self.cancellation.snapshot["started_at"] is None
        starts = self.entries.matching("start")
        late = any(never_started or start.at > self.cancellation.at for start in starts)
        return "started after its cancellation" if late else None

    def _lost_checkpoint(self) -> str | None:
        """A step before a saved checkpoint was repeated, or several steps after one interruption."""
        if self.plan.kind != "checkpoints":
            return None
        saved = -1
        for call in self.entries.calls:
            steps = [int(entry.event.split()[1]) for entry in call.matching("step ")]
            if steps and steps[0] <= saved:
                return "repeated a step before a checkpoint"
            saved = max([saved, *(int(entry.event.split()[1]) for entry in call.matching("saved "))])
        repeated = self.entries.repeated_steps() >= max(1, len(self.entries.calls))
        return "repeated several steps after one interruption" if repeated else None

    def _unexplained_attempt(self) -> str | None:
        """An attempt was spent that neither failed by itself nor lost its worker.

        More than one attempt is spent at once if workers are killed or frozen before they call the handler.
        """
        calls = self.entries.calls
        for earlier, later in itertools.pairwise(calls):
            start, end = earlier[0], later[0]
            faults = [fault for fault in self.worker_faults if fault.at <= end.at and fault.until >= start.at]
            failed = len(earlier.matching("raised"))
            own_fault = failed or any(fault.worker == start.worker for fault in faults)
            spent = end.attempt - start.attempt
            if spent < 0 or (spent and not own_fault) or spent > failed + sum(fault.is_fatal for fault in faults):
                return f"attempt {end.attempt} followed attempt {start.attempt} without a cause"
        fatal_faults = [fault for fault in self.worker_faults if fault.is_fatal]
        if calls and calls[0][0].attempt > 1 + sum(fault.at <= calls[0][0].at for fault in fatal_faults):
            return f"attempt {calls[0][0].attempt} was the first"
        return None

    def _zombie(self) -> str | None:
        """A handler went on after a later delivery had started, by more than a heartbeat of a worker that ran."""

        def just_thawed(entry: Entry) -> bool:
            return any(
                fault.worker == entry.worker and fault.ended_at <= entry.at <= fault.ended_at + HEARTBEAT_S
                for fault in self.worker_faults
            )

        late = [entry for entry in self.entries.overlapping(HEARTBEAT_S) if not just_thawed(entry)]
        return f"ran at the same time as another delivery: {format_entries(late)}" if late else None
