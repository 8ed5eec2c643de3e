"""What tells the arms of a comparison apart in a figure: a colour and a stroke for each, and a legend that fits."""

from collections.abc import Iterable
from typing import Any

from matplotlib.figure import Figure

from common.plots import PALETTE

STROKES = ("-", (0, (5, 1)), (0, (1, 1)))  # solid; where there are more arms than colours dashed, then dotted


def arm_lines(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """By label `color` and `linestyle` of its line; no two are alike up to three times the palette."""
    several = len(PALETTE)
    return {
        label: {"color": PALETTE[i % several], "linestyle": STROKES[i // several % len(STROKES)]}
        for i, label in enumerate(dict.fromkeys(labels))
    }


def legend_below(figure: Figure, handles: dict[str, Any], title: str | None, columns: int) -> None:
    """A legend under the panels, in at most so many columns and in as few as its labels need to stay inside the figure."""
    for ncol in range(columns, 0, -1):
        legend = figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncol=ncol, title=title, title_fontsize=8
        )
        if ncol == 1 or legend.get_window_extent(figure.canvas.get_renderer()).width <= figure.bbox.width:  # type: ignore[attr-defined]
            return
        legend.remove()
