"""Runs side by side: one column of any runs' tables in one figure, seeds grouped, and a table.

    python -m common.overlay results/transformers/A results/transformers/B
    python -m common.overlay results/rl/CartPole-v1-* --column eval_return --x seconds

A run is a folder with a metrics.csv, of train.py or vpg.py; or a sweep's, with a runs.csv, whose lowest mean test loss at
each compute is drawn. A folder that holds run folders stands for all of them. Runs whose config.json differs in the seed
alone are one group: its mean, with the 95% t interval over seeds where there are at least two.
"""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from scipy.stats import t as student

from common.errors import BadInput
from common.provenance import repository_root
from common.run import read_metrics

Array = NDArray[np.float64]
# What is drawn where no column is asked for: the first of these that all runs have.
TELLING = ("val_loss", "eval_return", "test_loss", "episode_return", "train_loss")
GRID = 200  # points at which the runs of a group are averaged


@dataclass(frozen=True)
class CommandLine:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """run folders, or folders of them"""
    column: str | None = None
    """what is drawn; default: validation loss, return of evaluations, or test loss"""
    x: str | None = None
    """what it is drawn against; default: step, of sweeps flops"""
    out: str = "overlay.png"
    """the figure"""


@dataclass(frozen=True)
class Curve:
    """One run: its folder, its columns and its settings, the seed apart."""

    folder: Path
    columns: dict[str, Array]
    settings: dict[str, Any]
    seed: Any


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone: x (points,), and of each run y (runs, points)."""

    label: str
    x: Array
    y: Array

    @property
    def mean(self) -> Array:
        return self.y.mean(0)

    @property
    def half_width(self) -> Array | None:
        """Of the 95% t interval of the mean over runs (points,); None for a single run."""
        n = len(self.y)
        return None if n < 2 else student.ppf(0.975, n - 1) * self.y.std(0, ddof=1) / math.sqrt(n)


# ---------------------------------------------------------------- reading


def find_runs(names: tuple[str, ...]) -> list[Path]:
    """The run folders that are named, or stand in a folder that is named; BadInput where one has none."""
    found: list[Path] = []
    for name in names:
        folder = next((path for path in (Path(name), repository_root() / "results" / name) if path.is_dir()), None)
        if folder is None:
            raise BadInput(f"{name} is no folder")
        inside = [folder, *sorted(folder.iterdir())]
        runs = [path for path in inside if (path / "metrics.csv").is_file() or (path / "runs.csv").is_file()]
        if not runs:
            raise BadInput(f"{name} holds no metrics.csv and no runs.csv, and neither does a folder in it")
        found += runs[:1] if runs[0] == folder else runs
    return list(dict.fromkeys(found))


def read_curve(folder: Path) -> Curve:
    """The table of a run and its settings; BadInput where the table has no rows."""
    metrics = folder / "metrics.csv"
    columns = read_metrics(metrics) if metrics.is_file() else frontier(folder / "runs.csv")
    if not columns:
        raise BadInput(f"{folder} has no rows yet")
    settings: dict[str, Any] = {}
    if (folder / "config.json").is_file():
        try:
            record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            settings = dict(record["config"])
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{folder / 'config.json'} is damaged") from None
    seed = settings.pop("seed", None)
    return Curve(folder, columns, settings, seed)


def frontier(path: Path) -> dict[str, Array]:
    """Of a sweep the lowest mean test loss (over seeds) at each compute: columns flops, test_loss."""
    cells: dict[tuple[str, str], list[tuple[float, float]]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row.get("test_loss"):
                    key = (row["width"], row["n_samples"])
                    cells.setdefault(key, []).append((float(row["flops"]), float(row["test_loss"])))
    except (KeyError, ValueError, TypeError):
        raise BadInput(f"{path} is no table of a sweep: it needs width, n_samples, flops and test_loss") from None
    means = sorted((runs[0][0], float(np.mean([loss for _, loss in runs]))) for runs in cells.values())
    lowest: dict[float, float] = {}
    best = math.inf
    for flops, loss in means:
        if loss < best:
            lowest[flops] = best = loss
    return {"flops": np.array([*lowest]), "test_loss": np.array([*lowest.values()])} if lowest else {}


# ---------------------------------------------------------------- grouping


def choose(curves: list[Curve], column: str | None, x: str | None) -> tuple[str, str]:
    """The columns to draw, which all runs must have; BadInput that lists what there is."""
    common = [name for name in curves[0].columns if all(name in curve.columns for curve in curves)]
    against = x or next((name for name in ("step", "flops") if name in common), None)
    chosen = column or next((name for name in TELLING if name in common), None)
    for flag, name in (("--x", against), ("--column", chosen)):
        if name not in common:
            raise BadInput(
                f"{flag} {name or ''}: the columns that all these runs have are {', '.join(common) or 'none'}"
            )
    assert chosen is not None
    assert against is not None
    return chosen, against


def group_runs(curves: list[Curve], column: str, x: str) -> list[Group]:
    """Runs of equal settings together, averaged on a common grid of the range that all of them cover."""
    together: dict[str, list[Curve]] = {}
    for curve in curves:
        key = json.dumps(curve.settings, sort_keys=True) if curve.settings else str(curve.folder)
        together.setdefault(key, []).append(curve)
    labels = label_groups([group[0] for group in together.values()])
    groups = []
    for label, group in zip(labels, together.values(), strict=True):
        known = []
        for curve in group:
            xs, ys = curve.columns[x], curve.columns[column]
            keep = np.isfinite(xs) & np.isfinite(ys)
            if not keep.any():
                raise BadInput(f"{curve.folder} has no value of {column}")
            known.append((xs[keep], ys[keep]))
        grid = known[0][0]
        if any(not np.array_equal(grid, xs) for xs, _ in known):
            grid = np.linspace(max(xs[0] for xs, _ in known), min(xs[-1] for xs, _ in known), GRID)
        groups.append(Group(label, grid, np.array([np.interp(grid, xs, ys) for xs, ys in known])))
    return groups


def label_groups(curves: list[Curve]) -> list[str]:
    """Each group by the settings in which it differs from another, else by its folder."""
    names = dict.fromkeys(name for curve in curves for name in curve.settings)
    hidden = {"sources", "loop", "data"}
    differing = [
        name for name in names if name not in hidden and len({json.dumps(c.settings.get(name)) for c in curves}) > 1
    ]
    labels = [
        ", ".join(f"{name} {curve.settings[name]}" for name in differing[:4] if curve.settings.get(name) is not None)
        for curve in curves
    ]
    if len(set(labels)) < len(labels) or not all(labels):
        labels = [curve.folder.name for curve in curves]
    return labels if len(set(labels)) == len(labels) else [str(curve.folder) for curve in curves]


# ---------------------------------------------------------------- telling


def table(groups: list[Group], column: str) -> str:
    """Markdown: of each group its runs, the last value with its interval, and the lowest and highest of its mean."""
    lines = [f"| runs | n | last {column} | lowest | highest |", "| --- | --- | --- | --- | --- |"]
    for group in groups:
        half, last = group.half_width, group.mean[-1]
        interval = "" if half is None else f" [{last - half[-1]:.4g}, {last + half[-1]:.4g}]"
        low, high = group.mean.min(), group.mean.max()
        lines.append(f"| {group.label} | {len(group.y)} | {last:.4g}{interval} | {low:.4g} | {high:.4g} |")
    return "\n".join(lines)


def draw(groups: list[Group], column: str, x: str, path: Path) -> None:
    """A line per group, with the 95% interval over seeds as a band."""
    from common.plots import PALETTE, band, new_figure, save_figure, sequence, style

    colors = PALETTE if len(groups) <= len(PALETTE) else sequence(len(groups))
    with style():
        figure, (axis,) = new_figure(1, width=7.2, height=4.4)
        for group, color in zip(groups, colors, strict=False):
            n = len(group.y)
            axis.plot(group.x, group.mean, color=color, label=f"{group.label} (n = {n})")
            if (half := group.half_width) is not None:
                band(axis, group.x, group.mean - half, group.mean + half, color)
        bands = "; bands: 95% t interval over seeds" if any(len(group.y) > 1 for group in groups) else ""
        axis.set(xlabel=x, ylabel=column, title=f"{column}: mean of each group{bands}")
        if x == "flops":
            axis.set(xscale="log", yscale="log")
        figure.legend(loc="outside lower center", ncols=1 if len(groups) < 4 else 2)
        save_figure(figure, path.with_suffix(""), pdf=False)


def main() -> int:
    """Read, group, print the table, draw."""
    from common.cli import parse, shown

    given = parse(CommandLine, {}, description=__doc__ or "")
    if not given.runs:
        raise BadInput("name the folders of the runs to compare")
    if Path(given.out).suffix != ".png":
        raise BadInput(f"--out {given.out}: only .png can be written")
    curves = [read_curve(folder) for folder in find_runs(given.runs)]
    column, x = choose(curves, given.column, given.x)
    groups = group_runs(curves, column, x)
    print(table(groups, column))
    draw(groups, column, x, Path(given.out))
    print(f"open {shown(Path(given.out))}")
    return 0


if __name__ == "__main__":
    from common.cli import run_main

    run_main(main)
