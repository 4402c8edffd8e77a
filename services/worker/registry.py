"""The registry of jobs: the built-in ones, and those in the modules that `WORKER_JOBS` names."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from headway import Job
from headway.contracts import check_decodable
from headway.jobs import called_function
from headway.labels import RESERVED_PREFIX

from ..runtime.exception_tree import type_name
from ..runtime.settings import SettingsError
from ..runtime.tracebacks import Traceback
from .outcomes import error_message

Registry = dict[str, Job[Any, Any]]

BUILT_IN_JOBS = f"{__package__}.jobs"
# In `WORKER_JOBS`, both names mean the built-in jobs: an application beside the wheel may have a package `services`.
BUILT_IN_NAMES = frozenset({BUILT_IN_JOBS, "services.worker.jobs"})


class InvalidJobs(SettingsError):
    """The jobs named by `WORKER_JOBS` cannot be loaded, or cannot run."""

    def __init__(self, problems: Iterable[str]) -> None:
        super().__init__([f"WORKER_JOBS: {problem}" for problem in problems])


def load_jobs(names: Iterable[str]) -> Registry:
    """Import modules, and packages with all their submodules, and return all jobs by kind.

    The built-in jobs are always included, unless a job in the modules has the same kind.

    Raises:
        InvalidJobs: a module cannot be imported, or a job cannot run: its kind is taken or reserved, its payload type
            cannot be decoded, its handler is a generator or hides that it is async, a job with `process=True` is not
            an attribute of the module that defines its handler, or its `on_end` names no job or leads back to it. The
            message has all problems.
    """
    problems: list[str] = []
    built_in = _load([BUILT_IN_JOBS], problems)
    registry = built_in | _load((name for name in names if name not in BUILT_IN_NAMES), problems)
    problems += _follow_up_problems(registry)
    if problems:
        raise InvalidJobs(problems)
    return registry


def _load(names: Iterable[str], problems: list[str]) -> Registry:
    registry: Registry = {}
    for module in _modules(names, problems):
        for job in [value for value in vars(module).values() if isinstance(value, Job)]:
            if job.kind not in registry:
                registry[job.kind] = job
                problems += _job_problems(job)
            elif registry[job.kind] is not job:
                problems.append(f"two jobs have the kind {job.kind!r}; one of them is in {module.__name__}")
    return registry


def _job_problems(job: Job[Any, Any]) -> Iterator[str]:
    """Yield the reasons why a job cannot run."""
    module, function = job.handler.__module__, called_function(job.handler)
    if job.kind.startswith(RESERVED_PREFIX) and not module.startswith(BUILT_IN_JOBS):
        yield f"the kind {job.kind!r} is reserved, because it begins with {RESERVED_PREFIX!r}"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        yield (
            f"the handler of job {job.kind!r} is a generator: it must return its result instead of yielding, and report"
            " progress with `ctx.progress`"
        )
    elif inspect.iscoroutinefunction(inspect.unwrap(function)) and not job.is_async:
        yield (
            f"the handler of job {job.kind!r} is a plain function that wraps an `async def`: declare the wrapper with"
            " `async def`, too, and let it await the function"
        )
    try:
        check_decodable(job.payload_type())
    except Exception as error:  # of the author's types
        yield f"the payload type of job {job.kind!r} cannot be decoded: {error_message(error)}"
    if job.process and job not in vars(sys.modules[module]).values():
        yield f"the job {job.kind!r} has process=True and must be an attribute of {module}"


def _follow_up_problems(registry: Registry) -> Iterator[str]:
    """Yield the reasons why the job that `on_end` names cannot follow a job."""
    in_cycles: set[str] = set()
    for job in registry.values():
        if job.on_end is None:
            continue
        if job.on_end.startswith(RESERVED_PREFIX):
            yield f"the job {job.kind!r} has on_end={job.on_end!r}, which is reserved"
        elif job.on_end not in registry:
            yield f"the job {job.kind!r} has on_end={job.on_end!r}, but no job has that kind"
        elif job.kind not in in_cycles and (cycle := _cycle(job, registry)):
            in_cycles.update(cycle)
            yield f"the jobs {' → '.join(map(repr, cycle))} follow each other for ever: on_end must not lead back"


def _cycle(job: Job[Any, Any], registry: Registry) -> list[str]:
    """Return the kinds from a job to itself along `on_end`; empty if that does not lead back to it."""
    path = [job.kind]
    while (following := registry.get(path[-1])) is not None and following.on_end is not None:
        path.append(following.on_end)
        if path[-1] in path[:-1]:
            return path if path[-1] == job.kind else []
    return []


def _modules(names: Iterable[str], problems: list[str]) -> Iterator[ModuleType]:
    for name in names:
        module = _import(name, problems)
        yield from module
        paths = [path for loaded in module for path in getattr(loaded, "__path__", [])]
        for submodule in pkgutil.walk_packages(paths, f"{name}.", onerror=_ignore):
            if not submodule.name.endswith(".__main__"):  # importing it would run it
                yield from _import(submodule.name, problems)


def _import(name: str, problems: list[str]) -> list[ModuleType]:
    try:
        return [importlib.import_module(name)]
    except ImportError as error:
        problems.append(f"{name} cannot be imported: {error}")
    except Exception as error:  # of the author's code
        place = Traceback.of(error).where[-1]
        problems.append(f"{name} cannot be imported: {type_name(error)}: {error_message(error)} ({place})")
    return []


def _ignore(_name: str) -> None:
    """Called when a package cannot be imported; `_import` has recorded the problem."""
