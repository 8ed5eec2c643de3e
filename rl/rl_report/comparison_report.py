"""The files of a comparison: curves.csv, runs.csv, of Procgen training.csv, the table and the figure."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_csv, write_text
from common.live import attempt
from common.plots import band, new_figure, save_figure, style
from rl_report.arm_lines import arm_lines, legend_below
from rl_report.procgen_report import procgen_figure, procgen_table
from rl_report.published import PUBLISHED, THRESHOLDS
from rl_report.seed_statistics import curve_interval, solved_at
from rl_settings.compare_settings import Arm
from rl_settings.procgen_games import is_procgen

# Of every arm its runs: seed, summary, curve, and of Procgen training by windows of frames.
Results = dict[Arm, list[dict[str, Any]]]
LINES = {"CleanRL PPO": ":", "SB3 zoo A2C": "--", "SB3 zoo PPO": "-."}  # of published returns


def report(folder: Path, results: Results, figures_only: bool = False) -> str:
    """curves.csv, runs.csv, of Procgen training.csv, table.md and the figure, of the runs so far; the table.

    With `figures_only`, the table and the figure alone: the others are what they were read from.
    """
    results = {arm: sorted(runs, key=lambda one: one["seed"]) for arm, runs in results.items() if runs}
    curves, rows, training = [], [], []
    for arm, runs in results.items():
        for one in runs:
            recipes = {name: getattr(arm, name) or "" for name in ("minibatches", "gamma", "horizon")}
            what = {**asdict(arm), **recipes, "seed": one["seed"]}
            curves += [{**what, **point} for point in one["curve"]]
            training += [{**what, **row} for row in one.get("training", ())]
            rows.append({**what, **one["summary"]})
    if not figures_only:
        write_csv(folder / "curves.csv", curves)
        write_csv(folder / "runs.csv", rows)
        if training:
            write_csv(folder / "training.csv", training)
    procgen = is_procgen(rows[0]["env"])
    found = procgen_table(results) if procgen else table(results)
    write_text(folder / "table.md", found)
    path = folder / "learning_curves"
    attempt(lambda: procgen_figure(results, path) if procgen else comparison_figure(panels(results), path), path.name)
    return found


def table(results: Results) -> str:
    """Markdown: what every arm reached, and what others have published."""
    lines = [
        "| environment | method | return, mean of seeds (each) | greedy | steps | solved: seeds, median steps, seconds "
        "| steps/s | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for env in dict.fromkeys(arm.env for arm in results):
        for arm in (arm for arm in results if arm.env == env):
            runs = [run for run in results[arm] if run["summary"]["status"] == "ok"]
            if not runs:
                lines.append(f"| {env} | {arm.label} | all runs diverged | | | | | |")
                continue
            summaries = [run["summary"] for run in runs]
            returns = [s["eval_return_mean"] for s in summaries]
            greedy = float(np.mean([s["eval_return_greedy_mean"] for s in summaries]))
            solved = [solved_at(run["curve"], THRESHOLDS[env]) for run in results[arm]] if env in THRESHOLDS else []
            found = [s for s in solved if s]
            when = f"{len(found)} of {len(solved)}" if solved else ""
            if found:
                when += (
                    f", {np.median([s['step'] for s in found]):,.0f}, {np.median([s['seconds'] for s in found]):.1f}"
                )
            each = ", ".join(f"{value:.1f}" for value in returns)
            if len(runs) < len(results[arm]):
                each += f"; {len(results[arm]) - len(runs)} diverged"
            rate = np.median([s["steps_per_second"] for s in summaries])
            seconds = np.median([s["train_seconds"] for s in summaries])
            lines.append(
                f"| {env} | {arm.label} | {np.mean(returns):.1f} ({each}) | {greedy:.1f} | {summaries[0]['steps']:,} "
                f"| {when} | {rate:,.0f} | {seconds:.1f} |"
            )
        for who, (value, steps) in PUBLISHED.get(env, {}).items():
            lines.append(f"| {env} | {who} (published) | {value:.1f} | | {steps:,} | | | |")
    return "\n".join(lines) + "\n"


def panels(results: Results) -> dict[str, dict[str, Any]]:
    """What the figure draws, by environment and label: steps, every seed's returns, IQM, interval."""
    drawn: dict[str, dict[str, Any]] = {}
    for arm, runs in results.items():
        curves = [one["curve"] for one in runs if one["summary"]["status"] == "ok" and one["curve"]]
        if not curves:
            continue
        points = min(len(curve) for curve in curves)
        returns = np.array([[point["eval_return"] for point in curve[:points]] for curve in curves])
        steps = np.mean([[point["step"] for point in curve[:points]] for curve in curves], 0)
        drawn.setdefault(arm.env, {})[arm.label] = (steps, returns, *curve_interval(returns))
    return drawn


def comparison_figure(panels: dict[str, dict[str, Any]], path: Path) -> None:
    """A panel per environment: every seed faintly, the interquartile mean with its interval, others' final returns."""
    if not panels:  # no run has an evaluation
        return
    columns = min(3, len(panels))
    several = any(len(arm[1]) > 1 for arms in panels.values() for arm in arms.values())
    handles: dict[str, Any] = {}
    with style():
        figure, axes = new_figure(
            columns, -(-len(panels) // columns), width=7.4 / columns, height=2.0 if columns > 2 else 4.2
        )
        lines = arm_lines(label for arms in panels.values() for label in arms)
        for axis, (env, arms) in zip(axes, panels.items(), strict=False):
            for label, (steps, returns, middle, low, high) in arms.items():
                color = lines[label]["color"]
                for one in returns:
                    axis.plot(steps / 1e6, one, color=color, alpha=0.2, linewidth=0.7)
                (handles[label],) = axis.plot(steps / 1e6, middle, **lines[label])
                band(axis, steps / 1e6, low, high, color)
            for who, (value, _) in PUBLISHED.get(env, {}).items():
                handles[who] = axis.axhline(value, color="#777777", linestyle=LINES.get(who, ":"), linewidth=1)
            seeds = "/".join(dict.fromkeys(str(len(arm[1])) for arm in arms.values()))
            axis.set_title(f"{env}, n = {seeds}", fontsize=9)
            axis.set(xlabel="million steps")
        for axis in axes[::columns]:
            axis.set_ylabel("return, 20 episodes")
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        bands = (
            "thick: interquartile mean over seeds, band: its 95% bootstrap interval, thin: each seed"
            if several
            else None
        )
        legend_below(figure, handles, bands, columns=3)
        save_figure(figure, path)
