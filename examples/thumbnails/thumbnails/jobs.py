"""The job. It is a plain function, which runs in a thread: all that takes long here releases Python's lock."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from headway import JobContext, job
from thumbnails import images

FOLDER = Path(os.environ.get("THUMBNAILS_FOLDER", ".headway/thumbnails"))


class Album(Struct):
    """What to make; without a seed, other pictures each time."""

    pictures: Annotated[int, Meta(ge=1, le=500)] = 40
    width: Annotated[int, Meta(ge=64, le=4_000)] = 1_600
    seed: int | None = None


class Made(Struct):
    """What was made, and where that is on the worker's machine."""

    pictures: int
    seed: int
    size_bytes: int
    sheet: str


@job("thumbnails", timeout_s=3_600)
def thumbnails(ctx: JobContext, payload: Album) -> Made:
    """Draw pictures, make them small, and put them on a sheet."""
    folder = FOLDER / str(ctx.job_id)  # the same one at every attempt
    try:
        return make(ctx, payload, folder)
    except asyncio.CancelledError:
        if ctx.cancelled == "cancel":  # nobody wants it; for any other reason the next attempt goes on from here
            shutil.rmtree(folder, ignore_errors=True)
        raise


def make(ctx: JobContext, payload: Album, folder: Path) -> Made:
    """Make the files that are missing in the folder."""
    seed = chosen_seed(ctx, payload)
    large, small, sheet = folder / "large", folder / "small", folder / "sheet.jpg"
    for one in (large, small):
        one.mkdir(parents=True, exist_ok=True)
    names = [f"{number:03}.jpg" for number in range(payload.pictures)]

    ctx.steps(10)
    with ctx.step("Drawing", weight=6):
        for name in missing(ctx, large, names):
            images.save(images.draw(f"{seed} {name}", payload.width), large / name)
    with ctx.step("Resizing", weight=3):
        for name in missing(ctx, small, names):
            images.save(images.shrink(large / name), small / name)
    with ctx.step("Contact sheet"):
        for name in missing(ctx, folder, [sheet.name]):
            images.save(images.arrange(small / name for name in names), sheet)

    size_bytes = sum(file.stat().st_size for file in folder.rglob("*.jpg"))
    ctx.log.info("album_made", extra={"pictures": payload.pictures, "size_bytes": size_bytes})
    return Made(payload.pictures, seed, size_bytes, str(sheet))


def chosen_seed(ctx: JobContext, payload: Album) -> int:
    """Return the seed that this job draws with; a later attempt finds it in the checkpoint."""
    if payload.seed is not None:
        return payload.seed
    if ctx.checkpoint_value is None:
        seed = random.randrange(2**32)  # noqa: S311 - it draws pictures
        ctx.checkpoint({"seed": seed})  # before the first file
        return seed
    return int(ctx.checkpoint_value["seed"])


def missing(ctx: JobContext, folder: Path, names: Sequence[str]) -> Iterator[str]:
    """Go through all names, and yield those of files that no earlier attempt has finished."""
    for name in ctx.track(names, unit="files"):
        if not (folder / name).exists():
            yield name
