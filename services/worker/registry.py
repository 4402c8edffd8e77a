"""The registry of jobs: the built-in ones, and those in the modules that `WORKER_JOBS` names."""

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

Registry = dict[str, Job[Any, Any]]

BUILT_IN_JOBS = f"{__package__}.jobs"
# In `WORKER_JOBS`, both names mean the built-in jobs: an application beside the wheel may have a package `services`.
BUILT_IN_NAMES = frozenset({BUILT_IN_JOBS, "services.worker.jobs"})


class InvalidJobs(SettingsError):
    """The jobs named by `WORKER_JOBS` cannot be loaded."""

    def __init__(self, problem: str) -> None:
        super().__init__([f"WORKER_JOBS: {problem}"])


def load_jobs(names: Iterable[str]) -> Registry:
    """Import modules, and packages with all their submodules, and return all jobs by kind.

    The built-in jobs are always included, unless a job in the modules has the same kind.

    Raises:
        InvalidJobs: a module cannot be imported, two jobs have the same kind, a payload type cannot be decoded, or a
            job with `process=True` is not an attribute of the module that defines its handler.
    """
    return _load([BUILT_IN_JOBS]) | _load(name for name in names if name not in BUILT_IN_NAMES)


def _load(names: Iterable[str]) -> Registry:
    registry: Registry = {}
    for module in _modules(names):
        for job in [value for value in vars(module).values() if isinstance(value, Job)]:
            _check_payload(job)
            if job.process and job not in vars(sys.modules[job.handler.__module__]).values():
                raise InvalidJobs(
                    f"the job {job.kind!r} has process=True and must be an attribute of {job.handler.__module__}"
                )
            if registry.setdefault(job.kind, job) is not job:
                raise InvalidJobs(f"two jobs have the kind {job.kind!r}; one of them is in {module.__name__}")
    return registry


def _check_payload(job: Job[Any, Any]) -> None:
    try:
        msgspec.json.Decoder(job.payload_type())
    except (NameError, TypeError) as error:
        raise InvalidJobs(f"the payload type of job {job.kind!r} cannot be decoded: {error}") from error


def _modules(names: Iterable[str]) -> Iterator[ModuleType]:
    for name in names:
        module = _import(name)
        yield module
        for submodule in pkgutil.walk_packages(getattr(module, "__path__", []), f"{name}."):
            if not submodule.name.endswith(".__main__"):  # importing it would run it
                yield _import(submodule.name)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidJobs(f"{name} cannot be imported: {error}") from error
