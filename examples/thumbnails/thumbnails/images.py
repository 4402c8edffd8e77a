"""The images: draw one, make it small, put many on a sheet, and write it whole or not at all."""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

SMALL = (160, 120)
COLUMNS = 10
HILLS = 4


def draw(seed: str, width: int) -> Image.Image:
    """Draw an evening over hills; the same seed gives the same picture."""
    dice = random.Random(seed)  # noqa: S311 - it draws pictures
    hue = dice.random()
    sky = Image.linear_gradient("L").resize((width, width * 3 // 4), Image.Resampling.BICUBIC)
    picture = ImageOps.colorize(sky, black=_colour(hue, 0.9, 0.3), white=_colour(hue + 0.45, 0.6, 1.0))
    sun = Image.radial_gradient("L").point([max(0, 255 - 2 * far) for far in range(256)])
    glow = sun.resize((width, width), Image.Resampling.BICUBIC)
    corner = round(width * dice.uniform(-0.4, 0.4)), round(width * dice.uniform(-0.3, 0.1))
    picture.paste("lemonchiffon", corner, glow)
    brush = ImageDraw.Draw(picture)
    for hill in range(HILLS):
        brush.polygon(_hill(dice, picture.size, hill), fill=_colour(hue, 0.8, 0.35 - 0.08 * hill))
    return picture


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _hill(dice: random.Random, size: tuple[int, int], hill: int) -> list[tuple[float, float]]:
    width, height = size
    waves = [(dice.uniform(1, 6), dice.uniform(0, math.tau)) for _ in range(3)]
    ridge = []
    for x in range(0, width + 8, 8):
        wave = sum(math.sin(often * x / width * math.tau + begun) for often, begun in waves)
        ridge.append((float(x), height * (0.55 + 0.1 * hill - 0.03 * wave)))
    return [*ridge, (width, height), (0, height)]


def shrink(picture: Path) -> Image.Image:
    """Make a picture small."""
    with Image.open(picture) as opened:
        return ImageOps.fit(opened, SMALL, Image.Resampling.LANCZOS)


def arrange(thumbnails: Iterable[Path]) -> Image.Image:
    """Put thumbnails on a sheet, row by row."""
    paths = list(thumbnails)
    width, height = SMALL
    sheet = Image.new("RGB", (COLUMNS * width, math.ceil(len(paths) / COLUMNS) * height), "white")
    for place, path in enumerate(paths):
        row, column = divmod(place, COLUMNS)
        with Image.open(path) as thumbnail:
            sheet.paste(thumbnail, (column * width, row * height))
    return sheet


def save(image: Image.Image, path: Path) -> None:
    """Write an image; its name is there once all of it is."""
    draft = path.with_suffix(".part")
    try:
        image.save(draft, "JPEG", quality=90)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
