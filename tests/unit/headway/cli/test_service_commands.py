"""The commands that run a service: import path, options, exit codes and the hint at a missing package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dev.environment import ROOT

WORKER = {
    "NOTIFIER_INTERNAL_URL": "http://127.0.0.1:1",
    "REPORT_KEY_FILE": "report.key",
    "QUEUE_ACCOUNT_URL": "https://a.queue.core.windows.net",
}
PRINT_PATH = "import sys; raise ImportError(sys.path[0])"


def run(folder: Path, *arguments: str, missing: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run a `headway` command in a folder, without the package `missing`."""
    code = f"import sys; sys.path.remove(''); sys.modules[{missing!r}] = None\n"
    code += "from headway.cli.command import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("service", "missing"),
    [("submitter", "azure"), ("worker", "azure"), ("worker", "aiohttp"), ("notifier", "redis"), ("notifier", "uvloop")],
)
def test_hint_names_the_extra_of_the_service(tmp_path: Path, service: str, missing: str) -> None:
    """A service whose packages are not installed exits with 1; its extra contains them."""
    failed = run(tmp_path, service, missing=missing)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith(f"headway: {missing}")
    assert failed.stderr.endswith(f" is not installed: pip install 'headway[{service}]'\n")


@pytest.mark.parametrize("service", ["submitter", "worker", "notifier"])
def test_invalid_settings_exit_with_2(tmp_path: Path, service: str) -> None:
    """All missing and invalid settings are printed at once."""
    failed = run(tmp_path, service, INTERNAL_PORT="high")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith(f"{service}: invalid settings:\n")
    assert "  INTERNAL_PORT: " in failed.stderr
    assert " is missing\n" in failed.stderr


@pytest.mark.parametrize("arguments", [["worker", "--job"], ["submitter", "--jobs", "a"], ["notifier", "--reload"]])
def test_invalid_arguments_exit_with_2(tmp_path: Path, arguments: list[str]) -> None:
    """Only the worker has options."""
    failed = run(tmp_path, *arguments)
    assert (failed.returncode, failed.stderr.startswith("usage: headway")) == (2, True)


@pytest.mark.parametrize("options", [["--jobs", "mine"], ["--jobs=mine", "--reload"], []])
def test_current_folder_is_first_on_the_path(tmp_path: Path, options: list[str]) -> None:
    """The worker imports jobs from the folder where it starts, with `--jobs` as with `WORKER_JOBS`."""
    (tmp_path / "mine.py").write_text(PRINT_PATH)
    failed = run(tmp_path, "worker", *options, **WORKER, WORKER_JOBS="others" if options else "mine")
    assert failed.returncode == 2
    assert f"  WORKER_JOBS: mine cannot be imported: {tmp_path}\n" in failed.stderr


def test_jobs_option_may_be_repeated(tmp_path: Path) -> None:
    """An option names one or more modules, separated by commas."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text("")
    failed = run(tmp_path, "worker", "--jobs", "a,b", "--jobs", "c", **WORKER)
    assert "  WORKER_JOBS: c cannot be imported: No module named 'c'\n" in failed.stderr
