"""The registry of jobs: which jobs a worker finds in the modules of `WORKER_JOBS`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.worker.registry import InvalidJobs, load_jobs

JOB = """
from headway import job
@job({kind!r})
async def handler(ctx, payload): ...
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of an empty package `their_jobs`, which can be imported during the test."""
    folder = tmp_path / "their_jobs"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "deep/__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "their_jobs"]:
        del sys.modules[name]


def own_kinds(*names: str) -> set[str]:
    """Return the kinds that are loaded from modules, without the built-in ones."""
    return load_jobs(names).keys() - load_jobs([]).keys()


def test_built_in_jobs_are_always_loaded(package: Path) -> None:
    """`WORKER_JOBS` need not name them, but may."""
    (package / "a.py").write_text(JOB.format(kind="a"))
    assert "countdown" in load_jobs([])
    assert load_jobs([]) == load_jobs(["services.worker.jobs"])
    assert load_jobs(["their_jobs"]) == load_jobs(["services.worker.jobs", "their_jobs"])


def test_job_replaces_a_built_in_one_of_the_same_kind(package: Path) -> None:
    """An application may have a `countdown` of its own."""
    (package / "a.py").write_text(JOB.format(kind="countdown"))
    assert load_jobs(["their_jobs"])["countdown"].handler.__module__ == "their_jobs.a"


def test_package_is_searched_recursively(package: Path) -> None:
    """All modules and packages in it are imported, and their jobs are registered by kind."""
    (package / "a.py").write_text(JOB.format(kind="a"))
    (package / "deep/b.py").write_text(JOB.format(kind="b"))
    assert own_kinds("their_jobs") == {"a", "b"}
    assert own_kinds("their_jobs.deep.b") == {"b"}


def test_job_may_be_imported_by_other_modules(package: Path) -> None:
    """A job is registered once, even if two modules have it or a module is named twice."""
    (package / "a.py").write_text(JOB.format(kind="a"))
    (package / "b.py").write_text("from their_jobs.a import handler as imported")
    assert own_kinds("their_jobs", "their_jobs.a") == {"a"}


def test_two_jobs_with_the_same_kind_are_rejected(package: Path) -> None:
    """The error names the kind and the second module."""
    (package / "a.py").write_text(JOB.format(kind="same"))
    (package / "b.py").write_text(JOB.format(kind="same"))
    with pytest.raises(InvalidJobs, match=r"kind 'same'.*their_jobs\.b"):
        load_jobs(["their_jobs"])


@pytest.mark.parametrize("content", [None, "import there_is_no_such_module"])
def test_module_that_cannot_be_imported_is_rejected(package: Path, content: str | None) -> None:
    """The worker does not start, and the error names the module."""
    if content is not None:
        (package / "a.py").write_text(content)
    with pytest.raises(InvalidJobs, match=r"WORKER_JOBS: their_jobs\.a cannot be imported"):
        load_jobs(["their_jobs.a" if content is None else "their_jobs"])


def test_main_module_is_not_imported(package: Path) -> None:
    """A package of jobs may have a `__main__` module, which would run on import."""
    (package / "__main__.py").write_text("raise RuntimeError('__main__ was imported')")
    (package / "a.py").write_text(JOB.format(kind="a"))
    assert own_kinds("their_jobs") == {"a"}


def test_unresolvable_payload_type_is_rejected(package: Path) -> None:
    """The worker does not start if the annotation of a payload cannot be resolved; the error names the job."""
    (package / "a.py").write_text(JOB.format(kind="a").replace("payload", "payload: 'OnlyForTypeChecking'"))
    with pytest.raises(InvalidJobs, match="'a'"):
        load_jobs(["their_jobs"])
