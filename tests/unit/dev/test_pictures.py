"""The past of the pictures and their files. No test takes a picture."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from dev.pictures.history import HOUR_S, HOURS, past_jobs
from dev.pictures.images import Frame, save_animation, save_picture
from headway.contracts import Timestamp


def screenshot(color: str) -> bytes:
    """Return a screenshot of one color."""
    file = io.BytesIO()
    Image.new("RGB", (40, 20), color).save(file, "PNG")
    return file.getvalue()


def test_the_past_is_a_day_that_is_the_same_each_time() -> None:
    """All attempts have ended; some have failed, most of them in the imports of last night."""
    now = Timestamp.now()
    jobs = past_jobs(now)
    assert [job.ending for job in jobs] == [job.ending for job in past_jobs(now)]
    assert all(now.after(-HOURS * HOUR_S) < job.started_at < job.ended_at < now for job in jobs)
    failed = [job.fields["kind"] for job in jobs if job.ending["status"] == "failed"]
    assert 10 < len(failed) < len(jobs) / 10
    assert max(set(failed), key=failed.count) == "import"


def test_equal_frames_of_an_animation_are_one(tmp_path: Path) -> None:
    """It is shown for as long as all of them."""
    colors = ("red", "red", "blue")
    save_animation([Frame(screenshot(color), 100) for color in colors], tmp_path / "x.webp", 20)
    with Image.open(tmp_path / "x.webp") as animation:
        assert (getattr(animation, "n_frames", 1), animation.size) == (2, (20, 10))


def test_pictures_have_few_colors(tmp_path: Path) -> None:
    """So their files are small."""
    save_picture(screenshot("green"), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert (picture.mode, picture.size) == ("P", (40, 20))
