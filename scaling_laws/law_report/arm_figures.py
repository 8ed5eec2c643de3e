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
        label: str | None = name
        for i, habit in enumerate(habits):
            if habit[key]:
                _bar(axes, habit[key], i + shift, color, label, across=True)
                label = None
    usual = habits[0]["a"]
    if usual and usual["lo95"] is not None:
        axes.axvspan(usual["lo95"], usual["hi95"], color=BLUE, alpha=0.12, lw=0)
    names = [
        habit["name"] + (f"\n(without {habit['left_out']} cells near chance)" if habit["left_out"] else "")
        for habit in habits
    ]
    axes.set_yticks(range(len(habits)), names)
    axes.invert_yaxis()
    axes.set(xlabel="a in N_opt ~ C^a (bars: 95% intervals; band: the usual way's)")
    if any(habit["a"] or habit["isoflop_a"] for habit in habits):
        axes.legend(loc="best")
    nets = sum(habit["nets"] for habit in habits)
    figure.suptitle(f"{title}: what a habit does to the optimal size's exponent ({nets} nets)", fontsize=10)
    return figure


def _bar(axes: Axes, item: dict[str, Any], place: float, color: Any, label: str | None, across: bool = False) -> None:
    """A value with its interval, where it has one; `across`: along x."""
    value = item["value"]
    low, high = (value if item[end] is None else item[end] for end in ("lo95", "hi95"))
    errors = [[max(0.0, value - low)], [max(0.0, high - value)]]
    style: dict[str, Any] = {"fmt": "o", "ms": 5, "capsize": 2, "elinewidth": 1.3, "color": color, "label": label}
    if across:
        axes.errorbar([value], [place], xerr=errors, **style)
    else:
        axes.errorbar([place], [value], yerr=errors, **style)


def draw_copies(copies: dict[str, Any], title: str) -> Figure:
    """Loss against images shown; what k showings count for; how that depends on the width, and on the strength."""
    usual = [one for one in copies["comparisons"] if one["test"] == "clean" and one["strength"] == 1.0]
    first = min(one["width"] for one in usual)
    figure, axes = new_figure(2, 2, width=3.7, height=3.2)
    _losses(axes[0], [one for one in usual if one["width"] == first])
    _worths(axes[1], [one for one in usual if one["width"] == first and "theta" in one])
    _widths(axes[2], [one for one in usual if one.get("first_copy")])
    _strengths(axes[3], [one for one in copies["comparisons"] if one["width"] == first and one["kind"] == "copies"])
    runs = sum(one["runs"] for one in copies["comparisons"] if one["test"] == "clean")
    told = [
        f"{title}: what showing an image again is worth ({runs} runs)",
        "points: means over seeds; bars: 95% intervals",
    ]
    figure.suptitle("\n".join(told), fontsize=10)
    return figure


def _losses(axes: Axes, comparisons: list[dict[str, Any]]) -> None:
    for one in comparisons:
        points = one["points"]
        sets = sorted({point["unique"] for point in points if point["passes"] > 1})
        fresh = sorted((point["unique"], point["loss"]) for point in points if point["passes"] == 1)
        transformed = one["kind"] == "copies"
        name, line = ("transformed", "-") if transformed else ("raw", "--")
        axes.plot([n for n, _ in fresh], [loss for _, loss in fresh], line, color="black", label=f"fresh {name}")
        for unique, color in zip(sets, sequence(len(sets)), strict=True):
            own = sorted((p["unique"] * p["passes"], p["loss"]) for p in points if p["unique"] == unique)
            label = f"{unique:,.0f} images, copies" if transformed else None
            axes.plot([n for n, _ in own], [loss for _, loss in own], f"o{line}", ms=3, color=color, label=label)
    axes.set(xscale="log", yscale="log", xlabel="images shown", ylabel="test loss, nats")
    axes.set_title(f"Loss, width {comparisons[0]['width']} (dashed: raw)")
    axes.legend(fontsize=7)
    plain_log_axis(axes, "y")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _worths(axes: Axes, comparisons: list[dict[str, Any]]) -> None:
    """D_eff / U against k; hollow: read off the fresh curve beyond its last point."""
    most = 1.0
    for one in comparisons:
        color, name = (BLUE, "transformed copies") if one["kind"] == "copies" else (ORANGE, "raw, again and again")
        at = sorted((float(key), item) for key, item in one["at"].items())
        k = np.array([1.0, *(place for place, _ in at)])
        low, high = (np.array([1.0, *(item[end] or np.nan for _, item in at)]) for end in ("lo95", "hi95"))
        band(axes, k, low, high, color)
        if one["kind"] == "copies":
            fine = np.geomspace(1, k.max(), 60)
            theta = [np.array([[value]]) for value in one["theta"][3:]]
            axes.plot(fine, np.exp(FORMS_OF_WORTH[one["form"]].law(theta, fine[None])[0][0]), color=color, label=name)
        else:
            axes.plot(k, [1.0, *(item["value"] for _, item in at)], color=color, label=name)
        last = max(p["unique"] for p in one["points"] if p["passes"] == 1)
        for p in one["points"]:
            if p["passes"] > 1 and p["worth"]:
                inside = p["worth"] * p["unique"] <= last
                axes.plot(p["passes"], p["worth"], "o", ms=4, color=color, mfc=color if inside else "white")
        most = max(most, k.max())
    axes.plot([1, most], [1, most], ":", color="0.5", lw=1, label="as good as fresh ones")
    axes.set(xscale="log", yscale="log", xlabel="showings of each image, k", title="What k showings count for")
    axes.set_ylabel("fresh images of the kind per image")
    axes.legend(fontsize=7)
    plain_log_axis(axes, "x")
    plain_log_axis(axes, "y")


def _widths(axes: Axes, comparisons: list[dict[str, Any]]) -> None:
    """What the second showing is worth, by width and kind."""
    widths = sorted({one["width"] for one in comparisons})
    named: set[str] = set()
    for one in comparisons:
        copies = one["kind"] == "copies"
        label = "a transformed copy" if copies else "the raw image again"
        place = widths.index(one["width"]) + (-0.08 if copies else 0.08)
        _bar(axes, one["first_copy"], place, BLUE if copies else ORANGE, None if label in named else label)
        named.add(label)
    axes.set_xticks(range(len(widths)), [f"width {width}" for width in widths])
    axes.set(xlim=(-0.5, max(0.5, len(widths) - 0.5)), ylabel="fresh images of the kind")
    axes.set_title("Worth of the second showing")
    axes.set_ylim(bottom=0)
    if named:
        axes.legend(fontsize=7)
    else:
        axes.set_axis_off()


def _strengths(axes: Axes, comparisons: list[dict[str, Any]]) -> None:
    """Loss of the middle set against the strength of the distortion, by the number of copies, on both test sets."""
    sets = sorted({p["unique"] for one in comparisons for p in one["points"] if p["passes"] > 1})
    if not sets or len({one["strength"] for one in comparisons}) < 2:
        axes.set_axis_off()
        return
    unique = sets[len(sets) // 2]
    shown = sorted({p["passes"] for one in comparisons for p in one["points"] if p["unique"] == unique})
    shown = [k for k in (1.0, 4.0, 32.0) if k in shown]
    for test, line in (("clean", "-"), ("transformed", "--")):
        for k, color in zip(shown, sequence(len(shown)), strict=True):
            found = [
                (one["strength"], p["loss"], one.get("noise") or 0.0)
                for one in comparisons
                for p in one["points"]
                if one["test"] == test and (p["unique"], p["passes"]) == (unique, k)
            ]
            x, loss, noise = (np.array(part) for part in zip(*sorted(found), strict=True))
            errors = np.stack([loss * (1 - np.exp(-1.96 * noise)), loss * (np.exp(1.96 * noise) - 1)])
            label = f"{k:.0f} cop{'y' if k == 1 else 'ies'}" if test == "clean" else None
            axes.errorbar(x, loss, errors, fmt=f"o{line}", ms=3, capsize=2, elinewidth=1, color=color, label=label)
    axes.set(yscale="log", xlabel="strength of the distortion (1: the sweep's)", ylabel="test loss, nats")
    axes.set_title(f"{unique:,.0f} images (dashed: transformed test)")
    axes.legend(fontsize=7)
    plain_log_axis(axes, "y")
