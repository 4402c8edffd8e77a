"""The main module of a handler process, which runs the attempts that the worker sends, one after another.

The process pool calls `main` with the file descriptor of a socket to the worker, the log level and the folder.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import select
import signal
import socket
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from headway import JobContext
from headway.context import completed_awaitable
from headway.contracts import Json, Progress, StepTimes

from ...runtime import unhandled
from ...runtime.exception_tree import type_name
from ...runtime.forked_child import NO_REPORTS_FROM_FORKS, ForkBarrier, reset_forked_children
from ...runtime.process_state import ProcessState, Setting, change_folder, current_folder, signal_settings
from ..logs.capture import capture_streams
from ..outcomes import Finished, RetryLater, decode_payload, outcome_from_exception, outcome_from_result
from .handler_call import call_handler, find_job
from .ipc import (
    HEADER,
    AttemptFinished,
    CheckpointSaved,
    FromProcess,
    LeaseExtended,
    LogRecord,
    ProgressUpdate,
    RunAttempt,
    SaveCheckpoint,
    StopAttempt,
    ToProcess,
    encode_frame,
    frame_decoder,
)
from .log_forwarding import ForwardingHandler, OutputForwarder

PROGRESS_INTERVAL_S = 0.02  # between two frames with progress
MAX_POLL_S = 60.0  # of the socket, before the lease deadline is checked again
NO_DEADLINE = float("inf")
OTHER_SETTINGS: tuple[Setting, ...] = (
    (partial(signal.set_wakeup_fd, -1), signal.set_wakeup_fd),
    (current_folder, change_folder),
)
_decode = frame_decoder(ToProcess)


class ParentChannel:
    """The connection to the worker.

    If it breaks, or the lease deadline passes without an extension, the process group is killed.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._lock = threading.Lock()
        self._lease_deadline = NO_DEADLINE
        self._process_id = os.getpid()
        self.run = 0  # the number of the current run, 0 between two runs
        self.stop_reason: str | None = None  # set when this process is to exit
        self.attempts: queue.SimpleQueue[tuple[int, RunAttempt]] = queue.SimpleQueue()
        self.saved_checkpoints: queue.SimpleQueue[CheckpointSaved] = queue.SimpleQueue()  # of the current run
        self.output: OutputForwarder | None = None  # of the current or last run
        self.left_behind: frozenset[threading.Thread] = frozenset()  # the threads that earlier runs have started

    def send(self, run: int, frame: FromProcess) -> None:
        """Send a frame of a run to the worker; thread-safe.

        Raises:
            RuntimeError: this process is a fork of the handler's process.
        """
        if os.getpid() != self._process_id:
            raise RuntimeError(NO_REPORTS_FROM_FORKS)
        data = encode_frame(run, frame)
        with self._lock:
            if isinstance(frame, AttemptFinished):
                self._lease_deadline = NO_DEADLINE
                self.run = 0
            self._socket.sendall(data)

    def send_if_free(self, run: int, next_frame: Callable[[], FromProcess | None]) -> None:
        """Send the frame that a function returns, if any; do nothing while another frame is sent."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            frame = next_frame()
            if frame is not None:
                self._socket.sendall(encode_frame(run, frame))
        finally:
            self._lock.release()

    def on_output(self, text: str) -> None:
        """Called when any thread of this process has printed a text."""
        if self.output is not None and threading.current_thread() not in self.left_behind:
            self.output.write(text)

    def on_record(self, record: LogRecord) -> None:
        """Called when any thread of this process has logged a record."""
        is_left_behind = threading.current_thread() in self.left_behind
        self.send(self.run, replace(record, is_captured=False) if is_left_behind else record)

    def close(self) -> None:
        """Close the connection in a forked child: the worker must see that it ends with this process."""
        self.output = None
        self._socket.close()

    def read_loop(self) -> None:
        """Handle the worker's frames; when the connection ends, kill this process and all that it has started."""
        try:
            while True:
                length, run = HEADER.unpack(self._receive(HEADER.size))
                self._on_frame(run, _decode(self._receive(length)))
        except (EOFError, TimeoutError, ConnectionError):
            pass
        except Exception:
            traceback.print_exc()
        finally:
            os.killpg(0, signal.SIGKILL)

    def check_lease(self) -> None:
        """Kill this process if the lease ended before the handler starts; the other thread may notice it later."""
        if time.monotonic() >= self._lease_deadline:
            os.killpg(0, signal.SIGKILL)

    def _on_frame(self, run: int, frame: ToProcess) -> None:
        match frame:
            case RunAttempt():
                self.run = run
                self._lease_deadline = frame.lease_deadline
                self.saved_checkpoints = queue.SimpleQueue()
                self.attempts.put((run, frame))
            case StopAttempt(reason):
                self.stop_attempt(reason)
            case LeaseExtended(deadline):
                with self._lock:
                    if run == self.run:
                        self._lease_deadline = deadline
            case CheckpointSaved() if run == self.run:
                self.saved_checkpoints.put(frame)

    def stop_attempt(self, reason: str) -> None:
        """Raise CancelledError in the handler, even while it blocks; the process exits when the handler has ended."""
        self.stop_reason = reason
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _receive(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            if self._poll.poll(min(MAX_POLL_S, max(0.0, self._lease_deadline - time.monotonic())) * 1000):
                part = self._socket.recv(length - len(received))
                if not part:
                    raise EOFError("the worker closed the connection")
                received += part
            elif time.monotonic() >= self._lease_deadline:
                raise TimeoutError("the lease was not extended in time")
        return bytes(received)


class ProcessHost:
    """The progress sink of a handler in this process; it forwards progress, checkpoints and output to the worker."""

    def __init__(self, channel: ParentChannel, run: int) -> None:
        self._channel = channel
        self._run = run
        self._saved_checkpoints = channel.saved_checkpoints
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._collect: Callable[[], Progress] | None = None
        self._collect_steps: Callable[[], tuple[StepTimes, ...]] = tuple
        self._closed = False
        self._progress_failed = False
        channel.left_behind = frozenset(threading.enumerate()) - {threading.main_thread()}
        channel.output = self._output = OutputForwarder(partial(channel.send_if_free, run), self._changed.set)
        threading.Thread(target=self._send_forever, name="progress", daemon=True).start()

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Called when the handler reports progress; a thread sends the latest within `PROGRESS_INTERVAL_S`."""
        self._collect = collect
        self._changed.set()

    def steps_started(self, collect: Callable[[], tuple[StepTimes, ...]]) -> None:
        """Called when the handler begins its first step; each progress is sent with the steps."""
        self._collect_steps = collect

    def save_checkpoint(self, checkpoint: Json) -> Awaitable[None]:
        """Send a checkpoint and block until the worker has saved it.

        Raises:
            CancelledError: the attempt has finished.
            ValueError: the queue message has no room for the checkpoint.
        """
        if self._closed:
            raise asyncio.CancelledError("stop")
        self._channel.send(self._run, SaveCheckpoint(checkpoint))
        error = self._saved_checkpoints.get().error
        if error is not None:
            raise ValueError(error)
        return completed_awaitable()

    def close(self) -> None:
        """Send the last progress and output, and drop any that follow."""
        self._send_progress()
        output = self._output.close()
        if output is not None:
            self._channel.send(self._run, output)
        with self._lock:
            self._closed = True
        self._changed.set()

    def _send_forever(self) -> None:
        while not self._closed:
            self._changed.wait()
            self._send_progress()
            self._output.flush()
            time.sleep(PROGRESS_INTERVAL_S)

    def _send_progress(self) -> None:
        with self._lock:
            self._changed.clear()
            collect, self._collect = self._collect, None
            if collect is not None and not self._closed:
                try:
                    update = ProgressUpdate(collect(), self._collect_steps())
                except Exception as error:  # costs the job its display alone
                    if not self._progress_failed:
                        self._progress_failed = True
                        logging.error("progress_failed", extra={"error": type_name(error)})  # noqa: LOG015, TRY400
                else:
                    self._channel.send(self._run, update)


def run_attempt(run: int, request: RunAttempt, channel: ParentChannel) -> Finished | RetryLater:
    """Run an attempt and return its outcome; any exception of the handler becomes an outcome."""
    host = ProcessHost(channel, run)
    outcome: Finished | RetryLater
    state: ProcessState | None = None
    try:
        with ForkBarrier():
            job = find_job(request.module, request.attempt.kind)
            payload = decode_payload(job, request.payload)
            state = ProcessState(*signal_settings(), *OTHER_SETTINGS)  # after the import of the module
            channel.check_lease()
            outcome = outcome_from_result(call_handler(job, JobContext(request.attempt, host), payload))
        state.restore()
    except BaseException as error:  # also of a signal handler that the job has set
        if state is not None:
            state.restore()
        outcome = outcome_from_exception(error)
    host.close()
    return outcome


def main(descriptor: str, level: str, folder: str) -> None:
    """Run attempts until the worker stops this process or the connection ends."""
    change_folder(folder)
    connection = socket.socket(fileno=int(descriptor))
    connection.setblocking(True)  # it is not, if a job in the worker has set a default timeout for sockets
    connection.set_inheritable(False)  # a program that a handler starts must not keep the connection open
    channel = ParentChannel(connection)
    forwarding = ForwardingHandler(channel.on_record)

    def cancel(*_: object) -> None:
        raise asyncio.CancelledError(channel.stop_reason or "stop")

    def on_fork() -> None:
        channel.close()
        logging.getLogger().removeHandler(forwarding)
        logging.getLogger().addHandler(logging.StreamHandler())

    signal.signal(signal.SIGTERM, cancel)
    reset_forked_children(on_fork)
    logging.basicConfig(level=int(level), format="%(message)s", handlers=[forwarding])
    unhandled.install()
    threading.Thread(target=channel.read_loop, name="parent-channel", daemon=True).start()
    with capture_streams(channel.on_output), suppress(asyncio.CancelledError):
        while channel.stop_reason is None:
            run, request = channel.attempts.get()
            channel.send(run, AttemptFinished(run_attempt(run, request, channel)))
