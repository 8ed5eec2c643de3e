"""The figures of the arms: what each habit does to the exponent, and what a transformed copy is worth."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from arms.copy_value import FORMS_OF_WORTH
from common.plots import PALETTE, band, new_figure, sequence
from law_report.law_figures import plain_log_axis

BLUE, ORANGE, GREEN = PALETTE[:3]


def draw_habits(habits: list[dict[str, Any]], title: str) -> Figure:
    """The exponent of N_opt by both approaches for each habit, the usual way first, with 95% intervals."""
    figure, (axes,) = new_figure(1, width=7.4, height=1.4 + 0.42 * len(habits))
    for key, shift, color, name in (
        ("a", -0.12, BLUE, "parametric law"),
        ("isoflop_a", 0.12, ORANGE, "IsoFLOP minima"),
    ):
        known = [(i, habit[key]) for i, habit in enumerate(habits) if habit[key]]
        value = np.array([item["value"] for _, item in known])
        ends = [(item["lo95"] or item["value"], item["hi95"] or item["value"]) for _, item in known]
        errors = np.maximum(np.abs(np.array(ends).T - value), 0)
        places = np.array([i for i, _ in known]) + shift
        axes.errorbar(value, places, xerr=errors, fmt="o", ms=5, elinewidth=1.4, capsize=2, color=color, label=name)
    usual = habits[0]["a"]
    if usual:
        axes.axvspan(usual["lo95"] or usual["value"], usual["hi95"] or usual["value"], color=BLUE, alpha=0.12, lw=0)
    axes.set_yticks(range(len(habits)), [habit["name"] for habit in habits])
    axes.invert_yaxis()
    axes.set(xlabel="a in N_opt ~ C^a (bars: 95% intervals; band: the usual way's)")
    axes.legend(loc="best")
    runs = sum(habit["runs"] for habit in habits if habit["arm"] or habit is habits[0])
    figure.suptitle(f"{title}: what a habit does to the optimal size's exponent ({runs} runs)", fontsize=10)
    return figure


def draw_copies(copies: dict[str, Any], title: str) -> Figure:
    """Loss against images shown; what k copies count for, and how that depends on strength, each on clean test images."""
    clean = [one for one in copies["comparisons"] if one["test"] == "clean"]
    usual = [one for one in clean if one["strength"] in (None, 1.0)]
    first = min(one["width"] for one in usual)
    figure, axes = new_figure(2, 2, width=3.7, height=3.2)
    _losses(axes[0], [one for one in usual if one["width"] == first])
    _worths(axes[1], usual, first)
    _widths(axes[2], usual, first)
    _strengths(axes[3], copies["comparisons"], first)
    runs = sum(one["runs"] for one in clean)
    figure.suptitle(
        f"{title}: what a copy of an image is worth ({runs} runs; bands and bars: 95% intervals)", fontsize=10
    )
    return figure


def _losses(axes: Axes, comparisons: list[dict[str, Any]]) -> None:
    for one in comparisons:
        points = one["points"]
        sets = sorted({point["unique"] for point in points if point["passes"] > 1})
        fresh = sorted((point["unique"], point["loss"]) for point in points if point["passes"] == 1)
        transformed = one["kind"] == "copies"
        name = "transformed" if transformed else "raw"
        marker = "-" if transformed else "--"
        axes.plot(*zip(*fresh, strict=True), marker, color="black", label=f"fresh {name}")
        for unique, color in zip(sets, sequence(len(sets)), strict=True):
            own = sorted((p["unique"] * p["passes"], p["loss"]) for p in points if p["unique"] == unique)
            label = f"{unique:,.0f} images, copies" if transformed else None
            axes.plot(*zip(*own, strict=True), f"o{marker}", ms=3, color=color, label=label)
    axes.set(xscale="log", yscale="log", xlabel="images shown", ylabel="test loss, nats", title="Loss (dashed: raw)")
    axes.legend(fontsize=7)
    plain_log_axis(axes, "y")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _worths(axes: Axes, comparisons: list[dict[str, Any]], width: int) -> None:
    for one in comparisons:
        if one["width"] == width:
            color, name = (BLUE, "transformed copies") if one["kind"] == "copies" else (ORANGE, "raw, again and again")
            _worth(axes, one, color, name)
    k = np.array([1.0, 32.0])
    axes.plot(k, k, ":", color="0.5", lw=1, label="as good as fresh")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="showings of each image, k",
        ylabel="D_eff / U, fresh images per image",
    )
    axes.set_title(f"What k showings count for, width {width}")
    axes.legend(fontsize=7)
    plain_log_axis(axes, "x")
    plain_log_axis(axes, "y")


def _worth(axes: Axes, one: dict[str, Any], color: Any, name: str) -> None:
    form = FORMS_OF_WORTH[one["form"]]
    theta = [np.array([[value]]) for value in one["theta"][3:]]
    k = np.geomspace(1, 32, 60)
    axes.plot(k, np.exp(form.law(theta, k[None])[0][0]), color=color, label=name)
    at = sorted((float(key), item) for key, item in one["at"].items())
    known = [(x, item) for x, item in at if item["lo95"] is not None]
    if known:
        x = np.array([1.0, *(place for place, _ in known)])
        low, high = (np.array([1.0, *(item[key] for _, item in known)]) for key in ("lo95", "hi95"))
        band(axes, x, low, high, color)
    shown = [(p["passes"], p["worth"]) for p in one["points"] if p["passes"] > 1 and p["worth"]]
    axes.plot(*zip(*shown, strict=True), "o", ms=3, color=color)


def _bars(axes: Axes, at: float, item: dict[str, Any], color: Any, label: str | None) -> None:
    low, high = item["lo95"] or item["value"], item["hi95"] or item["value"]
    errors = [[max(0.0, item["value"] - low)], [max(0.0, high - item["value"])]]
    axes.errorbar([at], [item["value"]], errors, fmt="o", ms=5, capsize=2, elinewidth=1.3, color=color, label=label)


def _widths(axes: Axes, comparisons: list[dict[str, Any]], first: int) -> None:
    """What the second showing is worth, by width and kind."""
    widths = sorted({one["width"] for one in comparisons})
    for one in comparisons:
        copies = one["kind"] == "copies"
        label = ("transformed copy" if copies else "raw, again") if one["width"] == first else None
        shift = -0.08 if copies else 0.08
        _bars(axes, widths.index(one["width"]) + shift, one["first_copy"], BLUE if copies else ORANGE, label)
    axes.set_xticks(range(len(widths)), [f"width {width}" for width in widths])
    axes.set(xlim=(-0.5, len(widths) - 0.5), ylabel="worth in fresh images", title="The second showing of an image")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)


def _strengths(axes: Axes, comparisons: list[dict[str, Any]], width: int) -> None:
    """What 32 copies count for against the strength of the distortion, on both test sets."""
    own = [one for one in comparisons if one["kind"] == "copies" and one["width"] == width and "32" in one["at"]]
    for test, color in (("clean", BLUE), ("transformed", GREEN)):
        rows = [one for one in own if one["test"] == test]
        for i, one in enumerate(sorted(rows, key=lambda one: one["strength"])):
            label = f"{test} test images" if i == 0 else None
            _bars(axes, one["strength"] * (0.985 if test == "clean" else 1.015), one["at"]["32"], color, label)
    axes.set(xlabel="strength of the distortion (1: the sweep's)", ylabel="D_eff / U of 32 copies")
    axes.set_title("32 copies, by strength")
    axes.set_ylim(bottom=0)
    if own:
        axes.legend(fontsize=7)
