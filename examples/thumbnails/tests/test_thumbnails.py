"""The job's own tests: `pytest`, in this folder or in Headway's."""

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
    """Have the files made in a folder of the test's own."""
    monkeypatch.setattr(jobs, "FOLDER", tmp_path)
    return tmp_path


def written(folder: Path) -> dict[str, int]:
    """Return all files and when each was written."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*.*")}


def test_pictures_thumbnails_and_a_sheet_are_made(folder: Path) -> None:
    """They are where the result says, and the bar fills through three steps."""
    job_id = uuid4()
    ran = run(thumbnails, ALBUM, job_id=job_id)
    assert ran.result.pictures == 12
    assert ran.result.sheet == str(folder / str(job_id) / "sheet.jpg")
    with Image.open(ran.result.sheet) as sheet:
        assert sheet.size == (10 * 160, 2 * 120)
    assert len(written(folder)) == 12 + 12 + 1
    percents = [one.percent or 0 for one in ran.progress]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert {one.message: one.percent for one in ran.progress} == {"Drawing": 60, "Resizing": 90, "Contact sheet": 100}


def test_the_next_attempt_makes_what_is_missing(folder: Path) -> None:
    """With the seed of the first one, and without touching what is finished."""
    job_id = uuid4()
    first = run(thumbnails, ALBUM, job_id=job_id)
    assert first.checkpoints == [{"seed": first.result.seed}]
    before = written(folder)
    lost = folder / str(job_id) / "large" / "007.jpg"
    same = lost.read_bytes()
    lost.unlink()
    second = run(thumbnails, ALBUM, job_id=job_id, checkpoint=first.checkpoints[-1], attempt=2)
    assert second.result == first.result
    assert lost.read_bytes() == same
    after = written(folder)
    assert [name for name in after if after[name] != before[name]] == [str(lost.relative_to(folder))]


@pytest.mark.parametrize(("reason", "left"), [("cancel", 0), ("timeout", 12), ("stop", 12), ("lease", 12)])
def test_a_cancelled_job_leaves_nothing_and_a_stopped_one_what_is_finished(
    folder: Path, monkeypatch: pytest.MonkeyPatch, reason: str, left: int
) -> None:
    """Cancelled in its second step, as a worker would."""
    ctx = JobContext(Attempt(job_id=uuid4(), kind="thumbnails"), Recorder())

    def shrink(_picture: Path) -> Image.Image:
        ctx.cancelled = reason
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(images, "shrink", shrink)
    with pytest.raises(asyncio.CancelledError):
        thumbnails(ctx, ALBUM)
    files = written(folder)
    assert len([name for name in files if "large" in name]) == left
    assert [name for name in files if not name.endswith(".jpg")] == []


def test_a_file_is_there_whole_or_not_at_all(folder: Path) -> None:
    """An image that cannot be written leaves no file behind."""
    with pytest.raises(OSError, match="cannot write mode RGBA as JPEG"):
        images.save(Image.new("RGBA", (1, 1)), folder / "x.jpg")
    assert written(folder) == {}


@pytest.mark.parametrize("payload", [{"pictures": 0}, {"pictures": "many"}, {"width": 1e6}])
def test_what_is_no_album_is_refused(payload: dict[str, object]) -> None:
    """The message names the field."""
    with pytest.raises(ValidationError, match=rf"\$\.{next(iter(payload))}"):
        run(thumbnails, payload)
