"""The jobs that a worker finds in the modules it is given."""

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
    """Make a package `their_jobs`, importable for this test alone."""
    folder = tmp_path / "their_jobs"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "deep/__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "their_jobs"]:
        del sys.modules[name]


def test_the_countdown_comes_with_headway() -> None:
    """The default package has the job of 2015."""
    assert set(load_jobs(["services.worker.jobs"])) >= {"countdown"}


def test_a_package_is_searched_to_the_bottom(package: Path) -> None:
    """Modules and packages inside are imported, and their jobs found by kind."""
    (package / "a.py").write_text(JOB.format(kind="a"))
    (package / "deep/b.py").write_text(JOB.format(kind="b"))
    assert set(load_jobs(["their_jobs"])) == {"a", "b"}
    assert set(load_jobs(["their_jobs.deep.b"])) == {"b"}


def test_a_job_may_be_imported_elsewhere(package: Path) -> None:
    """The same job in two modules is one job, also when a module is named twice."""
    (package / "a.py").write_text(JOB.format(kind="a"))
    (package / "b.py").write_text("from their_jobs.a import handler as again")
    assert set(load_jobs(["their_jobs", "their_jobs.a"])) == {"a"}


def test_two_jobs_may_not_have_one_kind(package: Path) -> None:
    """It would be left to chance which of them runs."""
    (package / "a.py").write_text(JOB.format(kind="same"))
    (package / "b.py").write_text(JOB.format(kind="same"))
    with pytest.raises(InvalidJobs, match=r"kind 'same'.*their_jobs\.b"):
        load_jobs(["their_jobs"])


@pytest.mark.parametrize("content", [None, "import there_is_no_such_module"])
def test_a_module_that_cannot_be_imported_is_named(package: Path, content: str | None) -> None:
    """A worker does not start without the jobs that it was given."""
    if content is not None:
        (package / "a.py").write_text(content)
    with pytest.raises(InvalidJobs, match=r"WORKER_JOBS: their_jobs\.a cannot be imported"):
        load_jobs(["their_jobs.a" if content is None else "their_jobs"])


def test_a_package_s_program_is_not_run(package: Path) -> None:
    """A package that can also be run with `python -m` may hold jobs."""
    (package / "__main__.py").write_text("raise RuntimeError('the program runs')")
    (package / "a.py").write_text(JOB.format(kind="a"))
    assert set(load_jobs(["their_jobs"])) == {"a"}


def test_a_payload_type_that_cannot_be_decoded_is_named_at_the_start(package: Path) -> None:
    """An annotation that does not resolve stops the worker before it takes any job."""
    (package / "a.py").write_text(JOB.format(kind="a").replace("payload", "payload: 'OnlyForTypeChecking'"))
    with pytest.raises(InvalidJobs, match="'a'"):
        load_jobs(["their_jobs"])
