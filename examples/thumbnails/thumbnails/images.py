"""Draw and resize pictures, arrange them on a contact sheet, and write them to files atomically."""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

THUMBNAIL_SIZE = (160, 120)
COLUMNS = 10
HILLS = 4


def draw(seed: str, width: int) -> Image.Image:
    """Draw a sunset over hills; the same seed gives the same picture."""
    rng = random.Random(seed)  # noqa: S311 - not used for security
    hue = rng.random()
    sky = Image.linear_gradient("L").resize((width, width * 3 // 4), Image.Resampling.BICUBIC)
    picture = ImageOps.colorize(sky, black=_color(hue, 0.9, 0.3), white=_color(hue + 0.45, 0.6, 1.0))
    sun = Image.radial_gradient("L").point([max(0, 255 - 2 * distance) for distance in range(256)])
    glow = sun.resize((width, width), Image.Resampling.BICUBIC)
    corner = round(width * rng.uniform(-0.4, 0.4)), round(width * rng.uniform(-0.3, 0.1))
    picture.paste("lemonchiffon", corner, glow)
    canvas = ImageDraw.Draw(picture)
    for hill in range(HILLS):
        canvas.polygon(_hill(rng, picture.size, hill), fill=_color(hue, 0.8, 0.35 - 0.08 * hill))
    return picture


def _color(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _hill(rng: random.Random, size: tuple[int, int], hill: int) -> list[tuple[float, float]]:
    """Return the corners of a polygon that fills the picture below a ridge."""
    width, height = size
    waves = [(rng.uniform(1, 6), rng.uniform(0, math.tau)) for _ in range(3)]
    ridge = []
    for x in range(0, width + 8, 8):
        wave = sum(math.sin(frequency * x / width * math.tau + phase) for frequency, phase in waves)
        ridge.append((float(x), height * (0.55 + 0.1 * hill - 0.03 * wave)))
    return [*ridge, (width, height), (0, height)]


def shrink(picture: Path) -> Image.Image:
    """Return a thumbnail of a picture, cropped to the size of thumbnails."""
    with Image.open(picture) as opened:
        return ImageOps.fit(opened, THUMBNAIL_SIZE, Image.Resampling.LANCZOS)


def arrange(thumbnails: Iterable[Path]) -> Image.Image:
    """Arrange thumbnails on a sheet, row by row."""
    paths = list(thumbnails)
    width, height = THUMBNAIL_SIZE
    sheet = Image.new("RGB", (COLUMNS * width, math.ceil(len(paths) / COLUMNS) * height), "white")
    for index, path in enumerate(paths):
        row, column = divmod(index, COLUMNS)
        with Image.open(path) as thumbnail:
            sheet.paste(thumbnail, (column * width, row * height))
    return sheet


def save(image: Image.Image, path: Path) -> None:
    """Write an image to a JPEG file, which appears only when it is complete."""
    partial = path.with_suffix(".part")
    try:
        image.save(partial, "JPEG", quality=90)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
