"""Bar charts as SVG, written by hand: no library is needed for a few rectangles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from xml.sax.saxutils import escape

COLOURS = ("#8a8f98", "#1f6feb", "#d4a72c", "#2da44e")
ONLY = COLOURS[1]
BAR, GAP, LEFT, WIDTH, RIGHT, TOP = 22, 18, 260, 420, 150, 64


@dataclass(frozen=True)
class Group:
    """Bars that belong together. label: what was measured; values: one per series, None if it was not."""

    label: str
    values: Sequence[float | None]


def bar_chart(
    title: str,
    note: str,
    unit: str,
    series: Sequence[str],
    groups: Sequence[Group],
    *,
    mark: float = 0.0,
    limit: float = 0.0,
) -> str:
    """Horizontal bars from zero, each with its value; the whole SVG document. mark: where a line is
    drawn across them; limit: what the longest bar stands for, longer ones are cut; both if not 0."""
    top = max((value for group in groups for value in group.values if value), default=1.0)
    top = min(top, limit) if limit else top
    gap = GAP if len(series) > 1 else GAP // 3
    height = TOP + len(groups) * (len(series) * BAR + gap) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{height}"'
        ' font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="16" y="24" font-size="16" font-weight="bold">{escape(title)}</text>',
        f'<text x="16" y="44" fill="#555">{escape(note)}</text>',
    ]
    if mark:
        x = LEFT + mark / top * WIDTH
        parts.append(f'<path d="M{x:.0f} {TOP - 6}V{height - 20}" stroke="#c33" fill="none"/>')
    colours = COLOURS if len(series) > 1 else (ONLY,)
    y = TOP
    for group in groups:
        middle = y + len(series) * BAR / 2 + 4
        parts.append(f'<text x="16" y="{middle:.0f}">{escape(group.label)}</text>')
        for name, value, colour in zip(series, group.values, cycle(colours)):
            parts += _bar(y, name, value, unit, top, colour)
            y += BAR
        y += gap
    return "\n".join([*parts, "</svg>", ""])


def _bar(y: float, name: str, value: float | None, unit: str, top: float, colour: str) -> list[str]:
    if value is None:
        text = f"{name}: not measured" if name else "not measured"
        return [f'<text x="{LEFT}" y="{y + 15}" fill="#555">{escape(text)}</text>']
    share = value / top
    length = max(1.0, min(share, 1.0) * WIDTH)
    text = escape(f"{name} {_figure(value)} {unit}".strip())
    shapes = [
        f'<rect x="{LEFT}" y="{y}" width="{length:.0f}" height="{BAR - 3}" fill="{colour}"/>',
        # On a white edge, where a line goes through it.
        f'<text x="{LEFT + length + 6:.0f}" y="{y + 15}" paint-order="stroke" stroke="white"'
        f' stroke-width="4">{text}</text>',
    ]
    if share > 1:  # a gap in the bar
        x = LEFT + WIDTH - 24
        shapes.append(
            f'<path d="M{x} {y + BAR}l8 -{BAR + 3}" stroke="white" stroke-width="4" fill="none"/>'
        )
    return shapes


def _figure(value: float) -> str:
    """With two digits at least."""
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"
