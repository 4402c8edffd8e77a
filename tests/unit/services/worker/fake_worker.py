"""A worker without services: a queue in memory, and a notifier that answers each report at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import msgspec
from azure.core.exceptions import HttpResponseError

from headway import Job
from headway.azure.job_queue import ReceivedMessage
from headway.contracts import ENDED, JobMessage, JobReport, Timestamp, Verdict
from headway.message_codec import encode_message, message_json
from services.runtime.tracer import Tracer
from services.worker.delivery import Delivery
from services.worker.execution.runner import Runner
from services.worker.logs.job_log import JobLog
from services.worker.reporting.report_stream import ReportStream
from tests.waiting import PATIENCE_S

LEASE_S = 60
PROCESS_MEMORY_BYTES = 256 << 20  # that an idle handler process may hold
ACCEPTED: dict[str, Any] = {"accepted": True}
CANCEL_REQUESTED: dict[str, Any] = {"accepted": True, "cancel_requested": True}


def rejected(reason: str) -> dict[str, Any]:
    """Return the fields of a verdict that rejects the report."""
    return {"accepted": False, "reason": reason}


class FakeQueue:
    """A queue with one message, which only the newest pop receipt can change.

    Attributes:
        calls: the operations that had an effect, in their order.
        errors: the errors of the next calls of each operation.
        text: the text of the message, None if it is deleted.
        poisoned: the texts on the poison queue.
        on_poison: called at each try to copy the message to the poison queue.
        on_release: called when the message is released.
    """

    def __init__(self, text: str, lease_s: float = LEASE_S) -> None:
        self._lease_s = lease_s
        self.calls: list[str] = []
        self.errors: dict[str, list[Exception]] = {"update": [], "delete": [], "poison": []}
        self.text: str | None = text
        self.poisoned: list[str] = []
        self.on_poison: Callable[[], None] = lambda: None
        self.on_release: Callable[[], None] = lambda: None
        self.delivery = 0
        self._receipt = 0

    def receive(self) -> ReceivedMessage:
        """Deliver the message once more."""
        assert self.text is not None
        self.delivery += 1
        self._receipt += 1
        now = time.monotonic()
        received_at = Timestamp.now()
        return ReceivedMessage("m-1", str(self._receipt), self.text, self.delivery, received_at, received_at, now)

    async def update(self, _message_id: str, receipt: str, visibility_s: int, text: str | None = None) -> str:
        """Renew or release the message."""
        self._fail("update", receipt)
        self._receipt += 1
        self.text = self.text if text is None else text
        if visibility_s != self._lease_s:
            self.calls.append(f"release {visibility_s}")
            self.on_release()
        return str(self._receipt)

    async def delete(self, _message_id: str, receipt: str) -> None:
        """Delete the message."""
        self._fail("delete", receipt)
        self.calls.append("delete")
        self.text = None

    async def poison(self, text: str) -> None:
        """Copy a text to the poison queue."""
        self.on_poison()
        self._fail("poison", str(self._receipt))
        self.calls.append("poison")
        self.poisoned.append(text)

    def fields(self) -> dict[str, Any]:
        """Return the fields of the message."""
        assert self.text is not None
        fields: dict[str, Any] = msgspec.json.decode(message_json(self.text))
        return fields

    def _fail(self, operation: str, receipt: str) -> None:
        if self.errors[operation]:
            raise self.errors[operation].pop(0)
        if receipt != str(self._receipt) or self.text is None:
            error = HttpResponseError("PopReceiptMismatch")
            error.error_code = "PopReceiptMismatch"  # type: ignore[attr-defined]
            raise error


class FakeReporter:
    """A reporter whose notifier answers each report that is due at once, in the next iteration of the event loop.

    Attributes:
        reports: the reports that were sent.
        verdicts: the verdicts on the next reports; then all are accepted. A string rejects the report as invalid.
        is_available: whether reports are sent; set it and call `flush` to send those that wait.
        on_report: called before the verdict on each report.
    """

    def __init__(self, calls: list[str]) -> None:
        self.reports: list[JobReport] = []
        self.verdicts: list[dict[str, Any] | str] = []
        self.is_available = True
        self.on_report: Callable[[JobReport], None] = lambda _: None
        self._calls = calls
        self._stream: ReportStream | None = None

    @contextmanager
    def stream(self, initial: JobReport, on_verdict: Callable[[Verdict], None]) -> Iterator[ReportStream]:
        """Open the report stream of a delivery."""
        self._stream = ReportStream(initial, on_verdict, self._on_change)
        try:
            yield self._stream
        finally:
            self._stream = None

    def _on_change(self) -> None:
        asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Send the report if it is due at once."""
        if self._stream is not None and self.is_available and self._stream.next_send_at(60) < 0:
            self.heartbeat()

    def heartbeat(self) -> None:
        """Send a report and pass on its verdict."""
        assert self._stream is not None
        stream = self._stream
        report = stream.next_report()
        self.reports.append(report)
        self._calls.append(report.status)
        self.on_report(report)
        verdict = self.verdicts.pop(0) if self.verdicts else ACCEPTED
        if isinstance(verdict, str):
            stream.on_rejected(verdict)
            self.flush()
        else:
            stream.on_verdict(Verdict(report.job_id, **verdict))

    def statuses(self) -> list[str]:
        """Return the status of each report."""
        return [report.status for report in self.reports]


class FakeWakeups:
    """A wake-up client that records the delays of its wake-ups."""

    def __init__(self) -> None:
        self.delays_s: list[float] = []

    def notify(self) -> None:
        """Record a wake-up."""
        self.notify_after(0)

    def notify_after(self, seconds: float) -> None:
        """Record a delayed wake-up."""
        self.delays_s.append(seconds)


class FakeFollowUps:
    """Records which jobs ended; `accepting` says whether the submitter accepts their follow-up jobs."""

    def __init__(self, calls: list[str]) -> None:
        self.accepting = True
        self._calls = calls

    async def submit(self, message: JobMessage, end: JobReport | None) -> bool:
        """Record the end of a job with `on_end`; return whether its message is of no more use."""
        if message.on_end is None:
            return True
        assert end is None or end.status in ENDED
        self._calls.append(f"follow-up {message.on_end}, if ended" if end is None else f"follow-up {message.on_end}")
        return self.accepting


class FakeLogs:
    """A sender of logs that keeps the log of the last delivery, and notes when it has a last append."""

    def __init__(self, calls: list[str]) -> None:
        self.log: JobLog | None = None
        self._calls = calls

    def open(self, report: JobReport, *, watchers: bool) -> JobLog:
        """Open the log of a delivery."""
        self.log = JobLog(report, watchers, self._on_pending)
        return self.log

    def _on_pending(self, log: JobLog) -> None:
        if log.is_closed:
            self._calls.append("log")

    def text(self) -> str:
        """Return what was logged and not taken yet."""
        assert self.log is not None
        append = self.log.next_append(time.monotonic())
        self.log.on_answer()
        self.log.clear_pending()
        return "" if append is None else append.text


class FakeWorker:
    """A worker with one message; `calls` are the queue operations and the reports, in their order."""

    def __init__(
        self,
        handler: Job[Any, Any],
        text: str | None = None,
        *,
        lease_s: float = LEASE_S,
        show_errors: bool = False,
        tracer: Tracer | None = None,
        **fields: Any,
    ) -> None:
        self.job_id: UUID = uuid4()
        message = JobMessage(id=self.job_id, kind=handler.kind, **fields)
        self.queue = FakeQueue(encode_message(message) if text is None else text, lease_s)
        self.calls = self.queue.calls
        self.reporter = FakeReporter(self.calls)
        self.wakeups = FakeWakeups()
        self.follow_ups = FakeFollowUps(self.calls)
        self.logs = FakeLogs(self.calls)
        self.deps: Any = SimpleNamespace(
            settings=SimpleNamespace(lease_s=lease_s, job_ttl_s=3600.0, show_errors=show_errors, queue_name="jobs"),
            queue=self.queue,
            reporter=self.reporter,
            registry={handler.kind: handler},
            runner=Runner(SimpleNamespace()),  # type: ignore[arg-type]
            wakeups=self.wakeups,
            follow_ups=self.follow_ups,
            logs=self.logs,
            tracer=tracer,
        )

    def receive(self) -> Delivery:
        """Receive the message and return its delivery."""
        return Delivery(self.queue.receive(), self.deps)

    async def deliver(self) -> None:
        """Receive the message and handle it to the end."""
        await asyncio.wait_for(self.receive().handle(), PATIENCE_S)
