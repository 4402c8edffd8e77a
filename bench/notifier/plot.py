"""The plot: an SVG of bar charts, with the range of the rounds in each bar, for light and dark mode."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple
from xml.sax.saxutils import escape

from bench.figures import Row, format_value, round_medians
from bench.notifier.scenarios import FANOUT, IDLE, JOBS
from bench.notifier.systems import HEADWAY

WIDTH, PANEL_WIDTH, LABEL_WIDTH, VALUE_WIDTH = 980, 480, 178, 56
BAR, GAP, TOP = 16, 7, 40
BAR_WIDTH = PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH
MAX_BAR_RATIO = 8.0  # to Headway's bar; a longer bar is cut off, since it would flatten the others
STYLE = """
    text { font: 12px system-ui, sans-serif; fill: #24292f }
    .title { font-weight: 600; font-size: 13px }
    .label { text-anchor: end }
    .bar { fill: #9aa4af }
    .ours { fill: #2f81c4 }
    .range { stroke: #24292f; stroke-width: 1.5 }
    .cut { stroke: #ffffff; stroke-width: 3 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .bar { fill: #6b7682 }
      .ours { fill: #58a6e8 }
      .range { stroke: #e6edf3 }
      .cut { stroke: #0d1117 }
    }
"""


class Panel(NamedTuple):
    """One measure of all systems; less is better."""

    title: str
    measure: str


class Bar(NamedTuple):
    """A system's median and range."""

    system: str
    lowest: float
    median: float
    highest: float


PANELS = (
    Panel("CPU per delivery to 1,000 watchers, µs", FANOUT.measure("delivery_us")),
    Panel("p50 with 1,000 watchers, ms", FANOUT.measure("p50_ms")),
    Panel("CPU per report of 1,000 jobs, µs", JOBS.measure("report_us")),
    Panel("p50 with 1,000 jobs, ms", JOBS.measure("p50_ms")),
    Panel("Bytes per idle connection", IDLE.measure("idle_bytes")),
    Panel("CPU per handshake, µs", IDLE.measure("upgrade_us")),
)


def bars(rows: Sequence[Row], measure: str) -> list[Bar]:
    """Return the bars of a panel, shortest first."""
    panel_bars = []
    for system in dict.fromkeys(row.system for row in rows if row.measure == measure):
        measured = round_medians(rows, system, measure)
        panel_bars.append(Bar(system, min(measured), median(measured), max(measured)))
    return sorted(panel_bars, key=lambda bar: bar.median)


def plot(rows: Sequence[Row]) -> str:
    """Return the SVG of all panels, two in a row."""
    drawn, y = [], 0
    for first in range(0, len(PANELS), 2):
        pair = [(panel, bars(rows, panel.measure)) for panel in PANELS[first : first + 2]]
        for column, (panel, panel_bars) in enumerate(pair):
            drawn.append(_panel(panel.title, panel_bars, column * (WIDTH - PANEL_WIDTH), y))
        y += TOP + max(len(panel_bars) for _, panel_bars in pair) * (BAR + GAP) + GAP
    label = "Cost of Headway's notifier and of its peers: less is better"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" aria-label="{escape(label)}">'
    return "\n".join([head, f"  <style>{STYLE}  </style>", *drawn, "</svg>", ""])


def _panel(title: str, panel_bars: Sequence[Bar], x: int, y: int) -> str:
    headway = [bar.highest for bar in panel_bars if bar.system == HEADWAY]
    longest = max((bar.highest for bar in panel_bars), default=1.0) or 1.0
    full = min(longest, MAX_BAR_RATIO * headway[0]) if headway else longest
    lines = [f'  <g transform="translate({x} {y})">', f'    <text class="title" x="0" y="24">{escape(title)}</text>']
    for number, bar in enumerate(panel_bars):
        lines += _bar(bar, full, TOP + number * (BAR + GAP))
    return "\n".join([*lines, "  </g>"])


def _bar(bar: Bar, full: float, y: int) -> list[str]:
    lowest, middle, highest = (LABEL_WIDTH + BAR_WIDTH * min(1.0, value / full) for value in bar[1:])
    css_class = "bar ours" if bar.system.startswith(HEADWAY) else "bar"
    level = y + BAR / 2
    lines = [
        f'    <text class="label" x="{LABEL_WIDTH - 8}" y="{y + 12}">{escape(bar.system)}</text>',
        f'    <rect class="{css_class}" x="{LABEL_WIDTH}" y="{y}" width="{middle - LABEL_WIDTH:.1f}" height="{BAR}"/>',
        f'    <line class="range" x1="{lowest:.1f}" y1="{level:g}" x2="{highest:.1f}" y2="{level:g}"/>',
        f'    <text x="{highest + 6:.1f}" y="{y + 12}">{format_value(bar.median)}</text>',
    ]
    if bar.median > full:
        cut = f'x1="{middle - 24:.1f}" y1="{y + BAR + 2}" x2="{middle - 16:.1f}" y2="{y - 2}"'
        lines[3:3] = [f'    <line class="cut" {cut}/>']
    return lines
