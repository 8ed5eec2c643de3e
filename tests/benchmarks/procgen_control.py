"""Whether a gap to published PPO is the single pass's or the network's: training curves of both side by side.

    python tests/benchmarks/procgen_control.py "one epoch, half width=results/rl/procgen-fruitbot-…-s0" …

Each argument names a curve and the folder of a run of vpg.py. Adds one row per 50,000 frames of it to control.csv in
results/reference/rl/procgen, the mean return of the episodes that ended in them with their number and the mean entropy, and
draws control.png from all rows that are there. Those of published PPO are openai/train-procgen's (`train_procgen/results`,
easy mode, 200 levels): every third row of a run's log, whose return is the mean of its latest 100 episodes.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from procgen_runs import REFERENCE, read_rows, replaced

from common.files import load_checkpoint, write_csv
from common.plots import new_figure, plt, save_figure, style
from rl_report.procgen_report import windows

OUT = REFERENCE / "control.csv"


def rows_of(name: str, folder: Path) -> list[dict[str, Any]]:
    """A run's part of control.csv."""
    arguments = load_checkpoint(folder / "checkpoint.pt")["arguments"]
    what = {"game": arguments["env"].partition(":")[2], "method": name, "seed": arguments["seed"]}
    kept = ("frames", "return", "episodes", "entropy")
    return [{**what, **{column: row[column] for column in kept}} for row in windows(folder / "metrics.csv")]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Return and entropy against frames, every seed a line: blue one epoch, orange PPO, grey published; half width dashed."""
    games = list(dict.fromkeys(row["game"] for row in rows))
    with style():
        figure, axes = new_figure(2, len(games), width=3.6, height=2.6)
        for game, pair in zip(games, axes.reshape(-1, 2), strict=True):
            curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for row in (row for row in rows if row["game"] == game):
                curves.setdefault((row["method"], str(row["seed"])), []).append(row)
            named = set()
            for (method, _), points in curves.items():
                frames = np.array([float(point["frames"]) for point in points]) / 1e6
                for axis, name in zip(pair, ("return", "entropy"), strict=True):
                    values = [float(point[name]) for point in points]
                    label = None if method in named else method
                    axis.plot(frames, values, label=label, **{"linewidth": 1.2, **look(method)})
                named.add(method)
            pair[0].set(title=f"{game}: return in training")
            pair[1].set(title=f"{game}: entropy of the policy, nats")
        for axis in axes[-2:]:
            axis.set_xlabel("million frames")
        known = {
            label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        order = sorted(known)
        figure.legend([known[label] for label in order], order, loc="outside lower center", ncol=2)
        save_figure(figure, path)


def look(method: str) -> dict[str, Any]:
    """Hue by the method's kind, its shade by what else differs, dashes by half the width."""
    if "published" in method:
        return {"color": "#888888", "linewidth": 2.0}
    shade = 0.85 if "64 x 256" in method or "Glorot" in method else 0.6 if "orthogonal" in method else 0.45
    colors = plt.get_cmap("Blues" if method.startswith("one epoch") else "Oranges")
    return {"color": colors(shade), "linestyle": "--" if "half width" in method else "-"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="NAME=FOLDER")
    rows = read_rows(OUT)
    for name, _, folder in (run.partition("=") for run in parser.parse_args().runs):
        rows = replaced(rows, rows_of(name, Path(folder)), ("game", "method", "seed"))
    if rows:
        write_csv(OUT, rows)
        draw(rows, OUT.with_suffix(""))


if __name__ == "__main__":
    main()
