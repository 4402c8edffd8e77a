"""The colors of pages and elements: one palette, legible in both schemes."""

from __future__ import annotations

import re

import pytest

from dev.environment import ROOT

TOKENS = (ROOT / "services/submitter/pages/tokens.css").read_text()
ELEMENT = (ROOT / "clients/browser/styles.js").read_text()
COLOR = re.compile(r"--([\w-]+): (?:var\(--headway-\w+, )?light-dark\((#\w{6}), (#\w{6})\)")
CHIP = 0.13  # the share of its tone in the background of a chip


def palette(css: str) -> dict[str, tuple[str, str]]:
    """Return the colors of a style sheet in the light and the dark scheme, by name."""
    return {name: (light, dark) for name, light, dark in COLOR.findall(css)}


def channels(color: str) -> list[float]:
    """Return the red, green and blue of a color, from 0 to 1."""
    return [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]


def luminance(rgb: list[float]) -> float:
    """Return the relative luminance of a color, as WCAG defines it."""
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: list[float], second: list[float]) -> float:
    """Return the contrast of two colors."""
    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


def test_elements_have_the_colors_of_the_pages() -> None:
    """Accent, warning and alarm of the elements are the colors of the pages that mean the same."""
    pages, element = palette(TOKENS), palette(ELEMENT)
    names = {"_accent": "sea", "_warning": "amber", "_alarm": "alarm"}
    assert element == {name: pages[token] for name, token in names.items()}


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_color_of_text_is_legible(scheme: int) -> None:
    """Texts have a contrast of at least 4.5 to 1 with the page, with a card, and with a chip of their own tone."""
    colors = {name: channels(values[scheme]) for name, values in palette(TOKENS).items()}
    ratios = {}
    for name in ("ink", "soft", "sea", "amber", "alarm"):
        for background in ("paper", "sheet"):
            back = colors[background]
            chip = [CHIP * tone + (1 - CHIP) * under for tone, under in zip(colors[name], back, strict=True)]
            ratios[name, background] = min(contrast(colors[name], back), contrast(colors[name], chip))
    assert {key: ratio for key, ratio in ratios.items() if ratio < 4.5} == {}
