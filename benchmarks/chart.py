"""Bar charts as SVG, written by hand: no library is needed for a few rectangles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

COLOURS = ("#8a8f98", "#1f6feb")
BAR, GAP, LEFT, WIDTH, TOP = 22, 18, 230, 420, 64


@dataclass(frozen=True)
class Group:
    """Bars that belong together. label: what was measured; values: one per series, None if it was not."""

    label: str
    values: Sequence[float | None]


def bar_chart(
    title: str, note: str, unit: str, series: Sequence[str], groups: Sequence[Group]
) -> str:
    """Horizontal bars from zero, each with its value; the whole SVG document."""
    top = max((value for group in groups for value in group.values if value), default=1.0)
    height = TOP + len(groups) * (len(series) * BAR + GAP) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 130}" height="{height}"'
        ' font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="16" y="24" font-size="16" font-weight="bold">{escape(title)}</text>',
        f'<text x="16" y="44" fill="#555">{escape(note)}</text>',
    ]
    y = TOP
    for group in groups:
        middle = y + len(series) * BAR / 2 + 4
        parts.append(f'<text x="16" y="{middle:.0f}">{escape(group.label)}</text>')
        for name, value, colour in zip(series, group.values, COLOURS, strict=False):
            parts += _bar(y, name, value, unit, top, colour)
            y += BAR
        y += GAP
    return "\n".join([*parts, "</svg>", ""])


def _bar(y: float, name: str, value: float | None, unit: str, top: float, colour: str) -> list[str]:
    if value is None:
        return [f'<text x="{LEFT}" y="{y + 15}" fill="#555">{escape(name)}: not measured</text>']
    length = max(1.0, value / top * WIDTH)
    figure = f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
    return [
        f'<rect x="{LEFT}" y="{y}" width="{length:.0f}" height="{BAR - 3}" fill="{colour}"/>',
        f'<text x="{LEFT + length + 6:.0f}" y="{y + 15}">{escape(name)} {figure} {unit}</text>',
    ]
