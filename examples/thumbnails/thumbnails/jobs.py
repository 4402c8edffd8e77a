"""The job `thumbnails`. It is a plain function and runs in a thread, because Pillow releases the GIL."""

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
    """The payload: number and width of the pictures, and a seed for the same pictures each time."""

    pictures: Annotated[int, Meta(ge=1, le=500)] = 40
    width: Annotated[int, Meta(ge=64, le=4_000)] = 1_600
    seed: int | None = None


class Summary(Struct):
    """The result: number and size of the files, and the path of the contact sheet on the worker's machine."""

    pictures: int
    seed: int
    size_bytes: int
    sheet: str


@job("thumbnails", timeout_s=3_600)
def thumbnails(ctx: JobContext, payload: Album) -> Summary:
    """Draw pictures, resize them, and arrange them on a sheet."""
    folder = FOLDER / str(ctx.job_id)  # every attempt uses the same folder
    try:
        return create_files(ctx, payload, folder)
    except asyncio.CancelledError:
        if ctx.cancelled == "cancel":  # after any other reason the next attempt continues with these files
            shutil.rmtree(folder, ignore_errors=True)
        raise


def create_files(ctx: JobContext, payload: Album, folder: Path) -> Summary:
    """Create the files that are missing in the folder."""
    seed = choose_seed(ctx, payload)
    large, small, sheet = folder / "large", folder / "small", folder / "sheet.jpg"
    for subfolder in (large, small):
        subfolder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:03}.jpg" for number in range(payload.pictures)]

    ctx.steps(10)
    with ctx.step("Drawing", weight=6):
        for name in missing_files(ctx, large, names):
            images.save(images.draw(f"{seed} {name}", payload.width), large / name)
    with ctx.step("Resizing", weight=3):
        for name in missing_files(ctx, small, names):
            images.save(images.shrink(large / name), small / name)
    with ctx.step("Contact sheet"):
        for name in missing_files(ctx, folder, [sheet.name]):
            images.save(images.arrange(small / name for name in names), sheet)

    size_bytes = sum(file.stat().st_size for file in folder.rglob("*.jpg"))
    ctx.log.info("album_created", extra={"pictures": payload.pictures, "size_bytes": size_bytes})
    return Summary(payload.pictures, seed, size_bytes, str(sheet))


def choose_seed(ctx: JobContext, payload: Album) -> int:
    """Return the seed of the payload or of an earlier attempt's checkpoint, otherwise a new random seed."""
    if payload.seed is not None:
        return payload.seed
    if ctx.checkpoint_value is None:
        seed = random.randrange(2**32)  # noqa: S311 - not used for security
        ctx.checkpoint({"seed": seed})  # saved before the first file is written
        return seed
    return int(ctx.checkpoint_value["seed"])


def missing_files(ctx: JobContext, folder: Path, names: Sequence[str]) -> Iterator[str]:
    """Track all names, and yield those whose file does not exist yet."""
    for name in ctx.track(names, unit="files"):
        if not (folder / name).exists():
            yield name
