"""One look for all figures: a colour-blind palette, plain axes, PNG for the eye and PDF for the paper."""

import io
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

os.environ["MPLBACKEND"] = "Agg"  # as in common/cli.py, for those who import this alone

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from common.files import atomic_save

# Okabe & Ito 2008: eight colours that colour-blind readers can tell apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")

STYLE: dict[Any, Any] = {
    "figure.dpi": 160,  # 5.5 inches are the 880 pixels of a page
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,
}


def style() -> AbstractContextManager[None]:
    """`with style():` around everything that draws or saves."""
    return plt.rc_context(STYLE)


def new_figure(columns: int, rows: int = 1, width: float = 3.6, height: float = 3.2) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns panels, each `width` x `height` inches, and its axes as a flat array."""
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    return figure, axes.ravel()


def sequence(n: int) -> list[Any]:
    """`n` colours in an order that the eye reads as one (viridis without its palest end)."""
    return list(plt.get_cmap("viridis")(np.linspace(0.0, 0.88, n)))


def band(axes: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, color: Any) -> None:
    """The interval around a line, in its colour."""
    axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)


def save_figure(figure: Figure, path: Path, pdf: bool = True) -> None:
    """Write `path`.png, of 256 colours, and with `pdf` `path`.pdf, each in one step, and close the figure."""
    figure.draw_without_rendering()  # lays the panels out, once for both files
    figure.set_layout_engine("none")
    memory = io.BytesIO()
    figure.savefig(memory, format="png")
    # A third of the bytes, and alike to the eye.
    picture = Image.open(memory).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    atomic_save(path.with_name(path.name + ".png"), lambda file: picture.save(file, "PNG", optimize=True))
    if pdf:
        metadata = {"CreationDate": None}  # the same data, the same file
        name = path.with_name(path.name + ".pdf")
        atomic_save(name, lambda file: figure.savefig(file, format="pdf", metadata=metadata))
    plt.close(figure)
