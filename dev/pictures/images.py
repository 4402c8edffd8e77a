"""Small files of pictures: PNG with few colors, and animated WebP."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image

COLORS = 128  # of a picture; text on paper has few


class Frame(NamedTuple):
    """A frame of an animation: a PNG, and for how long it is shown."""

    png: bytes
    milliseconds: int


def save_picture(png: bytes, path: Path) -> None:
    """Save a screenshot with few colors, which makes it small."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def save_animation(frames: list[Frame], path: Path, width: int) -> None:
    """Save an animation that repeats, scaled to a width. Frames that show the same are one."""
    images: list[Image.Image] = []
    durations: list[int] = []
    for frame in frames:
        image = Image.open(io.BytesIO(frame.png)).convert("RGB")
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
        if images and image.tobytes() == images[-1].tobytes():
            durations[-1] += frame.milliseconds
        else:
            images.append(image)
            durations.append(frame.milliseconds)
    first, *others = images
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, quality=80, method=4)
