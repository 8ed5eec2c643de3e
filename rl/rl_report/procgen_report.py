"""The Procgen suite's table and figure: ours beside OpenAI's PPO at the same number of frames, and a random policy."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from common.plots import new_figure, save_figure, style
from common.run import read_metrics
from rl_report.arm_lines import arm_lines, legend_below
from rl_report.published import ppo_points, ppo_return, random_return
from rl_report.seed_statistics import mean_interval
from rl_settings.procgen_games import MODES, game_and_mode, normalised_return

WINDOW = 50_000  # frames


def number(value: float | None) -> str:
    """Two decimals, or nothing."""
    return "" if value is None or not np.isfinite(value) else f"{value:.2f}"


def procgen_table(results: dict[Any, list[dict[str, Any]]]) -> str:
    """Markdown: every game's returns on levels of training and on all, PPO's at as many frames, and the mean over games."""
    lines = [
        "| game | method | frames | train | all levels | normalised: train, all | success: train, all "
        "| PPO: train, all (published) | random | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    methods: dict[str, list[dict[str, float]]] = {}
    for arm, runs in results.items():
        done = [run["summary"] for run in runs if run["summary"]["status"] == "ok"]
        if not done:
            lines.append(f"| {arm.env.partition(':')[2]} | {arm.label} | all runs diverged | | | | | | | |")
            continue
        steps = float(np.mean([s["steps"] for s in done]))
        mean = {
            name: float(np.mean([s[name] for s in done]))
            for name in ("eval_return_mean", "test_return_mean", "eval_success", "test_success")
        }
        ppo = {split: ppo_return(arm.env, split, steps) for split in ("train", "test")}
        train, test = (normalised_return(arm.env, mean[f"{name}_return_mean"]) for name in ("eval", "test"))
        published = ", ".join(filter(None, map(number, ppo.values())))
        known = {"train": train, "test": test, "steps": steps}
        for split, value in ppo.items():
            known[f"ppo_{split}"] = np.nan if value is None else normalised_return(arm.env, value)
        chance = random_return(arm.env)
        known["random"] = np.nan if chance is None else normalised_return(arm.env, chance)
        methods.setdefault(arm.label, []).append(known)
        lines.append(
            f"| {arm.env.partition(':')[2]} | {arm.label} | {steps:,.0f} | {mean['eval_return_mean']:.2f} "
            f"| {mean['test_return_mean']:.2f} | {train:.2f}, {test:.2f} "
            f"| {mean['eval_success']:.0%}, {mean['test_success']:.0%} "
            f"| {published} | {number(random_return(arm.env))} | {len(done)} |"
        )
    for method, games in methods.items():
        cells = []
        for name in ("train", "test", "ppo_train", "ppo_test"):
            middle, low, high = mean_interval(np.array([game[name] for game in games]))
            cells.append(f"{middle:.3f} [{low:.3f}, {high:.3f}]" if np.isfinite(middle) else "")
        frames, chance = (np.mean([game[name] for game in games]) for name in ("steps", "random"))
        lines.append(
            f"| **mean of {len(games)}** | {method} | {frames:,.0f} | | | {cells[0]}, {cells[1]} | "
            f"| normalised: {cells[2]}, {cells[3]} | {f'normalised: {chance:.3f}' if np.isfinite(chance) else ''} | |"
        )
    return "\n".join(lines) + "\n"


def windows(path: Path) -> list[dict[str, Any]]:
    """A run's training, from its metrics.csv, in rows of WINDOW frames; a rest of less than half a window is left out.

    The return is the mean of all episodes that ended in the window, hundreds where an evaluation has twenty.
    """
    metrics = read_metrics(path)
    steps, episodes = metrics["step"], metrics["episodes"]
    which = ((steps - 1) // WINDOW).astype(int)
    rows = []
    for i in range(which.max() + 1):
        chosen = which == i
        if not chosen.any() or steps[chosen].max() - i * WINDOW < WINDOW / 2:
            continue
        ended = chosen & (episodes > 0)
        mean = {name: float(np.mean(metrics[name][chosen])) for name in ("entropy", "kl", "explained_variance")}
        weighted = metrics["ended_return"][ended] @ episodes[ended] / episodes[ended].sum() if ended.any() else math.nan
        rows.append(
            {
                "frames": (i + 1) * WINDOW,
                "return": round(float(weighted), 3),
                "episodes": int(episodes[chosen].sum()),
                **{name: float(f"{value:.3g}") for name, value in mean.items()},
                "frames_per_second": round(float(np.median(metrics["steps_per_second"][chosen]))),
            }
        )
    return rows


def smoothed(rows: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Million frames and mean returns of two windows each, without the first one, in which only short episodes can end."""
    frames, returns, episodes = (np.array([row[name] for row in rows[1:]]) for name in ("frames", "return", "episodes"))
    total = np.where(episodes > 0, returns, 0.0) * episodes
    both = episodes[:-1] + episodes[1:]
    return frames[1:] / 1e6, (total[:-1] + total[1:]) / np.where(both > 0, both, np.nan)


def procgen_figure(results: dict[Any, list[dict[str, Any]]], path: Path) -> None:
    """A panel per game: returns of training by frames, a line per run, and the final evaluations with their intervals.

    Grey is published PPO, at the few points that lie within our frames; dotted a random policy. Of levels that were not
    trained on the final evaluation alone is drawn: those on the way, of twenty episodes, are mostly noise.
    """
    by_env: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for arm, runs in results.items():
        done = [run for run in runs if run["summary"]["status"] == "ok"]
        if done:
            by_env.setdefault(arm.env, {})[arm.label] = done
    if not by_env:
        return
    columns = min(4, len(by_env))
    lines = arm_lines(arm.label for arm in results)
    with style():
        figure, axes = new_figure(
            columns, -(-len(by_env) // columns), width=7.4 / columns, height=1.75 if columns > 3 else 2.4
        )
        for axis, (env, arms) in zip(axes, by_env.items(), strict=False):
            for label, runs in arms.items():
                for i, run in enumerate(runs):
                    one_run(axis, run, lines[label], label if i == 0 else None)
            last = max(float(run["summary"]["steps"]) for runs in arms.values() for run in runs) / 1e6
            game, mode = game_and_mode(env)
            if mode == MODES[0]:
                published(axis, env, last)
                axis.axhline(
                    random_return(env) or 0.0, color="#000000", linestyle=":", linewidth=1, label="random policy"
                )
            axis.set_title(game if mode == MODES[0] else f"{game}, {mode}")
        for axis in axes[::columns]:
            axis.set_ylabel("return")
        for axis in axes[max(0, len(by_env) - columns) : len(by_env)]:
            axis.set_xlabel("million frames")
        for axis in axes[len(by_env) :]:
            axis.set_visible(False)
        known = {
            label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        told = "dots: the final evaluation and its 95% interval over episodes; filled: levels of training, open: all levels"
        legend_below(figure, known, told, columns=2)
        save_figure(figure, path)


def published(axis: Axes, env: str, last: float) -> None:
    """OpenAI's PPO on levels of training until `last` million frames: its points, joined from a random policy's return on."""
    at, returns = ppo_points(env, "train")
    inside = at <= last * 1e6
    grid = np.concatenate([[0.0], at[inside] / 1e6, [last]])
    values = [ppo_return(env, "train", x * 1e6) for x in grid]
    if None in values:
        return
    label = f"PPO, published: {int(inside.sum())} points, mean of 3 runs"
    axis.plot(grid, values, "-", color="#999999", linewidth=1.0)  # type: ignore[arg-type]
    axis.plot(at[inside] / 1e6, returns[inside], "-s", color="#777777", markersize=3, linewidth=1.0, label=label)


def one_run(axis: Axes, run: dict[str, Any], line: dict[str, Any], label: str | None) -> None:
    """Training, where a run has its windows, else evaluations; the final ones as dots with 95% intervals over episodes."""
    summary = run["summary"]
    end, mean = summary["steps"] / 1e6, summary["eval_return_mean"]
    if len(run.get("training", ())) > 2:
        axis.plot(*smoothed(run["training"]), **line, linewidth=1.3, label=label)
    else:
        points = [
            (point["step"] / 1e6, point["eval_return"]) for point in run["curve"] if point["step"] < summary["steps"]
        ]
        told = None if label is None else f"{label} (evaluations)"
        axis.plot(*zip(*points, (end, mean), strict=True), **line, linewidth=1.1, label=told)
    for name, aside, face in (("eval_return", 1.03, line["color"]), ("test_return", 1.08, "white")):
        middle, low, high = (summary[f"{name}_{part}"] for part in ("mean", "lo95", "hi95"))
        beside = None if low is None else [[max(0.0, middle - low)], [max(0.0, high - middle)]]
        axis.errorbar(
            aside * end,
            middle,
            beside,
            fmt="o",
            markersize=3.5,
            linewidth=1.1,
            color=line["color"],
            markerfacecolor=face,
        )
