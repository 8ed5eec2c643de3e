"""Runs side by side: one column of any runs' tables in one figure, seeds grouped, and a table.

    python -m common.overlay results/transformers/A results/transformers/B
    python -m common.overlay results/rl/CartPole-v1-* --column eval_return --x seconds

A run is a folder with a metrics.csv, of train.py or vpg.py; or a sweep's, with a runs.csv, whose lowest mean test loss at
each compute is drawn. A folder that holds run folders stands for all of them, and a name for the folder of that name in
results/ or in a project's folder there. Runs whose config.json differs in the seed alone are one group: its mean, with the
95% t interval over seeds where there are at least two.
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
from common.files import read_json
from common.gallery import read_object
from common.provenance import repository_root, short_hash
from common.run import read_metrics

Array = NDArray[np.float64]
# What is drawn where no column is asked for: the first of these that all runs have.
TELLING = ("val_loss", "eval_return", "test_loss", "episode_return", "train_loss")
AXES = ("step", "flops", "tokens", "minutes", "seconds")  # what a column is drawn against, the first that all have
CODE = frozenset({"sources", "loop", "data"})  # settings that are hashes of files
GRID = 200  # points at which the runs of a group are averaged


@dataclass(frozen=True)
class CommandLine:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """run folders, or folders of them"""
    column: str | None = None
    """what is drawn; default: validation loss, return of evaluations, or test loss, else the first column"""
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
    seed: Any = None
    seconds: float = math.nan
    """of training, as its summary.json tells"""

    @property
    def key(self) -> str:
        """Equal for runs of one group. A run without settings is one of its own."""
        return json.dumps(self.settings, sort_keys=True) if self.settings else str(self.folder)


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone: x (points,), and of each run y (runs, points)."""

    label: str
    x: Array
    y: Array
    seconds: float = math.nan
    """of training, the mean over runs"""
    others: str = ""
    """the settings that differ from another group's and that the label does not tell"""

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
    results = repository_root() / "results"
    for name in names:
        places = [Path(name), results / name, *sorted(project / name for project in results.glob("*/"))]
        folders = [path for path in places if path.is_dir()]
        if not folders:
            raise BadInput(f"{name} is no folder, and there is none of that name in results/ or in a project's results")
        # Of a project's code and its results, which have one name, the results.
        runs = next(filter(None, map(runs_in, folders)), [])
        if not runs:
            raise BadInput(f"{name} holds no metrics.csv and no runs.csv, and neither does a folder in it")
        found += runs
    return list(dict.fromkeys(found))


def runs_in(folder: Path) -> list[Path]:
    """The folder itself if it is a run's, else the run folders in it."""
    inside = [folder, *sorted(folder.iterdir())]
    runs = [path for path in inside if (path / "metrics.csv").is_file() or (path / "runs.csv").is_file()]
    return runs[:1] if runs[:1] == [folder] else runs


def read_curve(folder: Path) -> Curve:
    """The table of a run and its settings; BadInput where the table has no rows."""
    metrics = folder / "metrics.csv"
    columns = read_metrics(metrics) if metrics.is_file() else frontier(folder / "runs.csv")
    if not columns:
        raise BadInput(f"{folder} has no rows yet")
    settings: dict[str, Any] = {}
    if (folder / "config.json").is_file():
        record = read_json(folder / "config.json")
        if not (isinstance(record, dict) and isinstance(record.get("config"), dict)):
            raise BadInput(f"{folder / 'config.json'} is damaged: it has no settings of a run")
        settings = record["config"]
    seed = settings.pop("seed", None)
    seconds = read_object(folder / "summary.json").get("train_seconds")
    return Curve(folder, columns, settings, seed, seconds if isinstance(seconds, int | float) else math.nan)


def frontier(path: Path) -> dict[str, Array]:
    """Of a sweep the lowest mean test loss (over seeds) at each compute: columns flops, test_loss."""
    cells: dict[tuple[str, str], list[tuple[float, float]]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if not {"width", "n_samples", "flops", "test_loss"} <= set(table.fieldnames or ()):
                raise KeyError
            for row in table:
                if row.get("test_loss"):
                    key = (row["width"], row["n_samples"])
                    cells.setdefault(key, []).append((float(row["flops"]), float(row["test_loss"])))
    except (KeyError, ValueError, TypeError, csv.Error):
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
    against = x or next((name for name in AXES if name in common), None)
    rest = [name for name in common if name != against and name not in AXES]
    chosen = column or next((name for name in (*TELLING, *rest) if name in rest), None)
    if against is None or chosen is None:
        tables = {", ".join(curve.columns): curve.folder.name for curve in curves}
        told = "; ".join(f"{folder} has {columns}" for columns, folder in list(tables.items())[:3])
        raise BadInput(f"these runs have no two columns in common to draw: {told}")
    for flag, name in (("--x", against), ("--column", chosen)):
        if name not in common:
            raise BadInput(f"{flag} {name}: the columns that all these runs have are {', '.join(common)}")
    return chosen, against


def without_repeats(curves: list[Curve]) -> list[Curve]:
    """The runs without those that have the settings and the seed of one before: they are no further seed."""
    kept: dict[tuple[str, Any], Curve] = {}
    for curve in curves:
        # What has no seed, a sweep or a folder without config.json, is told apart by its folder.
        key = (curve.key, str(curve.folder) if curve.seed is None else json.dumps(curve.seed))
        first = kept.setdefault(key, curve)
        if first is not curve:
            print(f"left out: {curve.folder} has the settings and the seed of {first.folder}")
    return list(kept.values())


def group_runs(curves: list[Curve], column: str, x: str) -> list[Group]:
    """Runs of equal settings together, averaged on a common grid of the range that all of them cover."""
    together: dict[str, list[Curve]] = {}
    for curve in curves:
        together.setdefault(curve.key, []).append(curve)
    labels, others = label_groups([group[0] for group in together.values()])
    groups = []
    for label, other, group in zip(labels, others, together.values(), strict=True):
        grid, y = on_one_grid(group, column, x)
        groups.append(Group(label, grid, y, float(np.mean([curve.seconds for curve in group])), other))
    return groups


def on_one_grid(group: list[Curve], column: str, x: str) -> tuple[Array, Array]:
    """x (points,) and the column of each run at it (runs, points), straight between its rows."""
    known = []
    for curve in group:
        xs, ys = curve.columns[x], curve.columns[column]
        keep = np.isfinite(xs) & np.isfinite(ys)
        if not keep.any():
            raise BadInput(f"{curve.folder} has no value of {column}")
        known.append((xs[keep], ys[keep]))
    grid = known[0][0]
    if any(not np.array_equal(grid, xs) for xs, _ in known):
        for curve, (xs, _) in zip(group, known, strict=True):
            if (np.diff(xs) < 0).any():
                raise BadInput(
                    f"{x} falls somewhere in {curve.folder}, so seeds cannot be averaged along it: choose another --x"
                )
        first, last = max(xs[0] for xs, _ in known), min(xs[-1] for xs, _ in known)
        if first > last:
            names = ", ".join(curve.folder.name for curve in group)
            raise BadInput(f"{names} differ in the seed alone, and no {x} lies within all of them: name fewer")
        grid = np.linspace(first, last, GRID)
    return grid, np.array([np.interp(grid, xs, ys) for xs, ys in known])


def label_groups(curves: list[Curve]) -> tuple[list[str], list[str]]:
    """Of each group a label, the fewest settings that tell it from the others, else its folder; and the other settings."""
    names = dict.fromkeys(name for curve in curves for name in curve.settings)
    differing = [name for name in names if len({json.dumps(curve.settings.get(name)) for curve in curves}) > 1]
    telling: list[str] = []
    for name in differing:  # in their order, those that tell apart what the ones before do not
        if name not in CODE and _kinds(curves, [*telling, name]) > _kinds(curves, telling):
            telling.append(name)
    labels = [_told(curve, telling) for curve in curves]
    if _kinds(curves, telling) < len(curves) or not all(labels):
        folders = [curve.folder.name for curve in curves]
        telling, labels = [], folders if len(set(folders)) == len(curves) else [str(curve.folder) for curve in curves]
    rest = [name for name in differing if name not in telling]
    return labels, [_told(curve, rest) for curve in curves]


def _kinds(curves: list[Curve], names: list[str]) -> int:
    return len({json.dumps([curve.settings.get(name) for name in names]) for curve in curves})


def _told(curve: Curve, names: list[str]) -> str:
    """`lr 0.1, batch 64`; of code, and of other long settings, a hash, since a table must hold it."""
    found = {name: curve.settings[name] for name in names if curve.settings.get(name) is not None}
    texts = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in found.items()
    }
    return ", ".join(
        f"{name} {short_hash(found[name]) if name in CODE or len(told) > 40 else told}" for name, told in texts.items()
    )


# ---------------------------------------------------------------- telling


def table(groups: list[Group], column: str) -> str:
    """Markdown: of each group its runs, the last value with its interval, the lowest and highest of its mean, seconds."""
    lines = [
        f"| runs | n | last {column} | lowest | highest | seconds | other settings that differ |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for group in groups:
        half, last = group.half_width, group.mean[-1]
        interval = "" if half is None else f" [{last - half[-1]:.4g}, {last + half[-1]:.4g}]"
        seconds = f"{group.seconds:.3g}" if math.isfinite(group.seconds) else ""
        cells = [group.label, str(len(group.y)), f"{last:.4g}{interval}", f"{group.mean.min():.4g}"]
        cells += [f"{group.mean.max():.4g}", seconds, group.others]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def as_written(text: str) -> str:
    """`text` for a figure, in which dollars would begin a formula."""
    return text.replace("$", r"\$")


def draw(groups: list[Group], column: str, x: str, path: Path) -> None:
    """A line per group, with the 95% interval over seeds as a band."""
    from common.plots import PALETTE, band, new_figure, save_figure, sequence, style

    colors = PALETTE if len(groups) <= len(PALETTE) else sequence(len(groups))
    labels = [as_written(f"{group.label} (n = {len(group.y)})") for group in groups]
    columns = 1 if len(groups) < 4 or max(map(len, labels)) > 40 else 2  # two long ones would run out of the figure
    rows = math.ceil(len(groups) / columns)
    with style():
        figure, (axis,) = new_figure(1, width=7.2, height=3.9 + 0.18 * rows)
        for group, label, color in zip(groups, labels, colors, strict=False):
            axis.plot(group.x, group.mean, color=color, label=label, marker="o" if len(group.x) == 1 else None)
            if (half := group.half_width) is not None:
                band(axis, group.x, group.mean - half, group.mean + half, color)
        bands = "; bands: 95% t interval over seeds" if any(len(group.y) > 1 for group in groups) else ""
        axis.set(xlabel=as_written(x), ylabel=as_written(column))
        axis.set_title(f"{as_written(column)}: mean of each group{bands}")
        if x == "flops":
            axis.set(xscale="log", yscale="log")
        figure.legend(loc="outside lower center", ncols=columns)
        save_figure(figure, path.with_suffix(""), pdf=False)


def main() -> int:
    """Read, group, print the table, draw."""
    from common.cli import parse, shown

    given = parse(CommandLine, {}, description=__doc__ or "")
    if not given.runs:
        raise BadInput("name the folders of the runs to compare")
    if Path(given.out).suffix != ".png":
        raise BadInput(f"--out {given.out}: only .png can be written")
    curves = without_repeats([read_curve(folder) for folder in find_runs(given.runs)])
    column, x = choose(curves, given.column, given.x)
    groups = group_runs(curves, column, x)
    print(table(groups, column))
    draw(groups, column, x, Path(given.out))
    print(f"open {shown(Path(given.out))}")
    return 0


if __name__ == "__main__":
    from common.cli import run_main

    run_main(main)
