"""Whether a gap to published PPO is the single pass's or the network's: training curves of both side by side.

    python tests/benchmarks/procgen_control.py "vpg, one pass, half width=results/rl/procgen-fruitbot-…-s0" …

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
from common.plots import PALETTE, new_figure, save_figure, style
from rl_report.procgen_report import windows

OUT = REFERENCE / "control.csv"
GREY = "#888888"


def rows_of(name: str, folder: Path) -> list[dict[str, Any]]:
    """A run's part of control.csv."""
    arguments = load_checkpoint(folder / "checkpoint.pt")["arguments"]
    what = {"game": arguments["env"].partition(":")[2], "method": name, "seed": arguments["seed"]}
    kept = ("frames", "return", "episodes", "entropy")
    return [{**what, **{column: row[column] for column in kept}} for row in windows(folder / "metrics.csv")]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Return and entropy against frames, a colour per method, every seed a line; published ones grey."""
    games = list(dict.fromkeys(row["game"] for row in rows))
    ours = [method for method in dict.fromkeys(row["method"] for row in rows) if "published" not in method]
    with style():
        figure, axes = new_figure(2, len(games), width=3.6, height=3.0)
        for game, pair in zip(games, axes.reshape(-1, 2), strict=True):
            curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for row in (row for row in rows if row["game"] == game):
                curves.setdefault((row["method"], str(row["seed"])), []).append(row)
            named = set()
            for (method, _), points in curves.items():
                color = PALETTE[ours.index(method)] if method in ours else GREY
                frames = np.array([float(point["frames"]) for point in points]) / 1e6
                for axis, name in zip(pair, ("return", "entropy"), strict=True):
                    values = [float(point[name]) for point in points]
                    axis.plot(frames, values, color=color, label=None if method in named else method)
                named.add(method)
            pair[0].set(title=f"{game}, levels of training", ylabel="return of an episode", xlabel="million frames")
            pair[1].set(title="entropy of the policy", ylabel="nats", xlabel="million frames")
        known = {
            label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(known.values(), known.keys(), loc="outside lower center", ncol=2)
        save_figure(figure, path)


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
