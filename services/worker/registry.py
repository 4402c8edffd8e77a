"""The jobs that this worker knows, found in the modules that `WORKER_JOBS` names."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import msgspec

from headway import Job

from ..runtime.settings import SettingsError

Registry = dict[str, Job[..., Any]]


class InvalidJobs(SettingsError):
    """A module cannot be imported, or two of them claim the same kind."""

    def __init__(self, problem: str) -> None:
        super().__init__([f"WORKER_JOBS: {problem}"])


def load_jobs(names: Iterable[str]) -> Registry:
    """Import modules, packages with all that is in them, and return their jobs by kind."""
    registry: Registry = {}
    for module in _modules(names):
        for job in [value for value in vars(module).values() if isinstance(value, Job)]:
            _check_payload(job)
            if job.process and job not in vars(sys.modules[job.handler.__module__]).values():
                raise InvalidJobs(f"a process would not find the job {job.kind!r} in {job.handler.__module__}")
            if registry.setdefault(job.kind, job) is not job:
                raise InvalidJobs(f"two jobs have the kind {job.kind!r}; one of them is in {module.__name__}")
    return registry


def _check_payload(job: Job[..., Any]) -> None:
    try:
        msgspec.json.Decoder(job.payload_type())
    except (NameError, TypeError) as error:
        raise InvalidJobs(f"the payload of job {job.kind!r} cannot be decoded: {error}") from error


def _modules(names: Iterable[str]) -> Iterator[ModuleType]:
    for name in names:
        module = _import(name)
        yield module
        for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{name}."):
            if not found.name.endswith(".__main__"):  # importing it would run it
                yield _import(found.name)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidJobs(f"{name} cannot be imported: {error}") from error
