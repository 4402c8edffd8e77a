"""The registry of jobs: which jobs a worker finds in the modules of `WORKER_JOBS`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.worker import registry
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


HEADER = """
from __future__ import annotations
import functools
import pathlib
from typing import TYPE_CHECKING, Any
from headway import job
if TYPE_CHECKING:
    from somewhere import OnlyForTypeCheckers
def logged(handler):
    @functools.wraps(handler)
    def wrapper(ctx, payload):
        return handler(ctx, payload)
    return wrapper
"""


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        ("@job('x')\nasync def f(ctx, payload: OnlyForTypeCheckers): ...", "'OnlyForTypeCheckers' is not defined"),
        (
            "@job('x')\nasync def f(ctx, payload: list[OnlyForTypeCheckers]): ...",
            "'OnlyForTypeCheckers' is not defined",
        ),
        ("@job('x')\nasync def f(ctx, payload: pathlib.Path): ...", "JSON cannot be decoded to Path"),
        ("@job('x')\nasync def f(ctx, payload: dict[str, object]): ...", "JSON cannot be decoded to object"),
        ("@job('x')\nasync def f(ctx, payload: list[int] | set[str]): ...", "union"),
        ("@job('x')\ndef f(ctx, payload): yield 1", "is a generator"),
        ("@job('x', process=True)\ndef f(ctx, payload): yield 1", "is a generator"),
        ("@job('x')\nasync def f(ctx, payload): yield 1", "is a generator"),
        ("@job('x')\n@logged\nasync def f(ctx, payload): ...", "wraps an `async def`"),
        ("@job('x')\n@logged\n@logged\nasync def f(ctx, payload): ...", "wraps an `async def`"),
        ("async def g(n, ctx, payload): ...\nf = job('x')(logged(functools.partial(g, 1)))", "wraps an `async def`"),
        ("class F:\n  def __call__(self, ctx, payload): yield 1\nf = job('x')(F())", "is a generator"),
        ("@job('headway.x')\nasync def f(ctx, payload): ...", "is reserved"),
        ("@job('x', process=True)\nasync def f(ctx, payload): ...", "must be a plain function, not async"),
        ("@job('x')\nasync def f(payload): ...", "must take two arguments"),
        ("@job('x', timeout_s=0)\nasync def f(ctx, payload): ...", "timeout_s must be positive"),
    ],
)
def test_job_that_cannot_work_is_rejected(package: Path, handler: str, problem: str) -> None:
    """The worker does not start; the error names the job and the reason."""
    (package / "a.py").write_text(HEADER + handler)
    with pytest.raises(InvalidJobs) as raised:
        load_jobs(["their_jobs"])
    [line] = str(raised.value).splitlines()
    assert line.startswith("WORKER_JOBS: ")
    assert "x'" in line
    assert problem in line


@pytest.mark.parametrize(
    "handler",
    [
        "async def f(ctx: OnlyForTypeCheckers, payload: dict[str, Any]) -> OnlyForTypeCheckers: ...",
        "def f(ctx: OnlyForTypeCheckers, payload: Any) -> OnlyForTypeCheckers: ...",
        "@logged\ndef f(ctx: OnlyForTypeCheckers, payload: list[int]): ...",
        "async def f(ctx, payload): ...",
    ],
)
def test_only_the_annotation_of_the_payload_matters(package: Path, handler: str) -> None:
    """The types of context and result may be imported for type checkers only."""
    (package / "a.py").write_text(f"{HEADER}@job('x')\n{handler}")
    assert own_kinds("their_jobs") == {"x"}


def test_pydantic_model_is_a_payload_type(package: Path) -> None:
    """A complete model is accepted; a model with a type that only type checkers know is rejected."""
    model = "from pydantic import BaseModel\nclass Photo(BaseModel):\n  name: {}\n"
    handler = "@job('x')\nasync def f(ctx, payload: list[Photo]): ..."
    (package / "a.py").write_text(HEADER + model.format("str") + handler)
    assert own_kinds("their_jobs") == {"x"}
    (package / "b.py").write_text(HEADER + model.format("OnlyForTypeCheckers") + handler.replace("x", "y"))
    with pytest.raises(InvalidJobs, match=r"payload type of job 'y'.*OnlyForTypeCheckers"):
        load_jobs(["their_jobs"])


def test_all_problems_are_reported_at_once(package: Path) -> None:
    """Each problem is a line; a job is checked once, even if two modules have it."""
    (package / "a.py").write_text(
        JOB.format(kind="headway.a") + JOB.format(kind="b").replace("payload", "payload: 'B'")
    )
    (package / "c.py").write_text("from their_jobs.a import handler as imported\n" + JOB.format(kind="headway.c"))
    (package / "d.py").write_text("raise RuntimeError('no such table')")
    (package / "deep/__init__.py").write_text("1 +")
    with pytest.raises(InvalidJobs) as raised:
        load_jobs(["their_jobs", "there_is_no_such_module"])
    lines = str(raised.value).splitlines()
    assert [line.split()[1] for line in lines] == [
        "the",
        "the",
        "their_jobs.d",
        "their_jobs.deep",
        "there_is_no_such_module",
    ]
    assert "'b'" in lines[0]
    assert "'headway.c'" in lines[1]
    assert lines[2].startswith("WORKER_JOBS: their_jobs.d cannot be imported: RuntimeError: no such table (")
    assert "d.py:1" in lines[2]


def test_built_in_kinds_may_be_reserved_ones(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    """A module of the application may import a built-in job with a reserved kind."""
    (package / "a.py").write_text(JOB.format(kind="headway.a"))
    monkeypatch.setattr(registry, "BUILT_IN_JOBS", "their_jobs")
    assert "headway.a" in load_jobs([])


CHAIN = """
from headway import job
async def handler(ctx, payload): ...
a = job("a", on_end={a!r})(handler)
b = job("b", on_end={b!r})(handler)
c = job("c", on_end={c!r})(handler)
"""


def test_follow_up_jobs_are_loaded(package: Path) -> None:
    """`on_end` may name any loaded job, a built-in one included, and several jobs may share one."""
    (package / "a.py").write_text(CHAIN.format(a="c", b="c", c="countdown"))
    assert load_jobs(["their_jobs"])["a"].on_end == "c"


@pytest.mark.parametrize(
    ("kinds", "problems"),
    [
        (("nothing", None, None), ["the job 'a' has on_end='nothing', but no job has that kind"]),
        (("headway.bulk", None, None), ["the job 'a' has on_end='headway.bulk', which is reserved"]),
        (("b", "a", "a"), ["the jobs 'a' → 'b' → 'a' follow each other for ever: on_end must not lead back"]),
        (("b", "c", "a"), ["the jobs 'a' → 'b' → 'c' → 'a' follow each other for ever: on_end must not lead back"]),
        (
            ("b", "c", "b"),
            ["the jobs 'b' → 'c' → 'b' follow each other for ever: on_end must not lead back"],
        ),
    ],
)
def test_impossible_follow_ups_are_rejected(
    package: Path, kinds: tuple[str | None, str | None, str | None], problems: list[str]
) -> None:
    """The worker does not start if `on_end` names no job, or if jobs would follow each other for ever."""
    a, b, c = kinds
    (package / "a.py").write_text(CHAIN.format(a=a, b=b, c=c))
    with pytest.raises(InvalidJobs) as raised:
        load_jobs(["their_jobs"])
    assert str(raised.value).splitlines() == [f"WORKER_JOBS: {problem}" for problem in problems]
