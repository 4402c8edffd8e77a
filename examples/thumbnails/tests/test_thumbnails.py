"""Tests of the job `thumbnails`. They run with `pytest`, without Headway's services."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from msgspec import ValidationError
from PIL import Image

from headway import JobContext
from headway.context import Attempt
from headway.testing import Recorder, run
from thumbnails import images, jobs
from thumbnails.jobs import Album, thumbnails

ALBUM = Album(pictures=12, width=64)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Redirect the job's files to a temporary folder."""
    monkeypatch.setattr(jobs, "FOLDER", tmp_path)
    return tmp_path


def modification_times(folder: Path) -> dict[str, int]:
    """Return the modification time (ns) of each file."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*.*")}


def test_job_creates_pictures_thumbnails_and_a_sheet(folder: Path) -> None:
    """The result contains the path of the sheet, and the progress rises through three steps to 100 %."""
    job_id = uuid4()
    completed = run(thumbnails, ALBUM, job_id=job_id)
    assert completed.result.pictures == 12
    assert completed.result.sheet == str(folder / str(job_id) / "sheet.jpg")
    with Image.open(completed.result.sheet) as sheet:
        assert sheet.size == (10 * 160, 2 * 120)
    assert len(modification_times(folder)) == 12 + 12 + 1
    percents = [progress.percent or 0 for progress in completed.progress]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert {progress.message: progress.percent for progress in completed.progress} == {
        "Drawing": 60,
        "Resizing": 90,
        "Contact sheet": 100,
    }


def test_next_attempt_creates_only_missing_files(folder: Path) -> None:
    """The second attempt uses the seed of the first one and does not write finished files again."""
    job_id = uuid4()
    first = run(thumbnails, ALBUM, job_id=job_id)
    assert first.checkpoints == [{"seed": first.result.seed}]
    before = modification_times(folder)
    missing = folder / str(job_id) / "large" / "007.jpg"
    content = missing.read_bytes()
    missing.unlink()
    second = run(thumbnails, ALBUM, job_id=job_id, checkpoint=first.checkpoints[-1], attempt=2)
    assert second.result == first.result
    assert missing.read_bytes() == content
    after = modification_times(folder)
    assert [name for name in after if after[name] != before[name]] == [str(missing.relative_to(folder))]


@pytest.mark.parametrize(("reason", "remaining"), [("cancel", 0), ("timeout", 12), ("stop", 12), ("lease", 12)])
def test_only_a_cancellation_removes_finished_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, reason: str, remaining: int
) -> None:
    """A job that is stopped in its second step keeps its finished pictures, unless the user has cancelled it."""
    ctx = JobContext(Attempt(job_id=uuid4(), kind="thumbnails"), Recorder())

    def shrink(_picture: Path) -> Image.Image:
        ctx.cancelled = reason
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(images, "shrink", shrink)
    with pytest.raises(asyncio.CancelledError):
        thumbnails(ctx, ALBUM)
    files = modification_times(folder)
    assert len([name for name in files if "large" in name]) == remaining
    assert [name for name in files if not name.endswith(".jpg")] == []


def test_failed_write_leaves_no_file(folder: Path) -> None:
    """An image that cannot be written leaves neither a complete nor a partial file."""
    with pytest.raises(OSError, match="cannot write mode RGBA as JPEG"):
        images.save(Image.new("RGBA", (1, 1)), folder / "x.jpg")
    assert modification_times(folder) == {}


@pytest.mark.parametrize("payload", [{"pictures": 0}, {"pictures": "many"}, {"width": 1e6}])
def test_invalid_payload_is_rejected(payload: dict[str, object]) -> None:
    """The error names the invalid field."""
    with pytest.raises(ValidationError, match=rf"\$\.{next(iter(payload))}"):
        run(thumbnails, payload)
