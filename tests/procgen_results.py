"""The committed results on Procgen, and the page that quotes them."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from pages import one_line, page
from rl_report.kept_results import arm_and_seed
from rl_report.published import ppo_return
from rl_report.seed_statistics import mean_interval
from rl_settings.compare_settings import Arm
from rl_settings.procgen_games import GAMES, normalised_return

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results/reference/rl/procgen"
SUITE = "suite-64-full-99-1m"  # what the page shows
SMALL_BATCH = "suite-full-1m"  # the same games with 16 minibatches and the paper's discount
PAGE = page("rl/procgen.md")
TEXT = one_line(PAGE)
COUNTS = "no one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()


def rows(name: str) -> list[dict[str, str]]:
    with open(REFERENCE / name, newline="") as file:
        return list(csv.DictReader(file))


def numbers(row: dict[str, str]) -> dict[str, Any]:
    """Cells as numbers where they are."""
    found: dict[str, Any] = {}
    for name, text in row.items():
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = text
    return found


def results(folder: str) -> dict[Arm, list[dict[str, Any]]]:
    """The runs of a comparison from its runs.csv and curves.csv, as compare.py had them."""

    found: dict[Arm, list[dict[str, Any]]] = {}
    curves: dict[tuple[Arm, int], dict[str, list[dict[str, Any]]]] = {}
    for name in ("curve", "training"):
        for row in rows(f"{folder}/{'curves' if name == 'curve' else name}.csv"):
            curves.setdefault(arm_and_seed(row), {}).setdefault(name, []).append(numbers(row))
    for row in rows(f"{folder}/runs.csv"):
        arm, seed = arm_and_seed(row)
        found.setdefault(arm, []).append({"summary": numbers(row), **curves[arm, seed], "seed": seed})
    return found


def with_interval(values: np.ndarray) -> str:
    middle, low, high = mean_interval(values)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def published_returns(game: str) -> list[float]:
    """Of OpenAI's three runs of PPO, after nearly a million frames."""
    (frames,) = {row["frames"] for row in rows("ppo_published.csv")}
    assert frames == "999424"
    return [float(row["return"]) for row in rows("ppo_published.csv") if row["game"] == game]


def last_windows(folder: str, env: str, end: int = 1_000_000, seed: int = 0) -> list[dict[str, Any]]:
    """The last 100,000 frames up to `end` of a run's training, in two rows."""
    last = [row for row in map(numbers, rows(f"{folder}/training.csv")) if (row["env"], row["seed"]) == (env, seed)]
    last = [row for row in last if end - 100_000 < row["frames"] <= end]
    assert [row["frames"] for row in last] == [end - 50_000, end]
    return last


def last_return_in_training(folder: str, env: str, end: int = 1_000_000, seed: int = 0) -> float:
    """Mean return of all episodes that ended in the last 100,000 frames up to `end`."""
    last = last_windows(folder, env, end, seed)
    return float(np.average([row["return"] for row in last], weights=[row["episodes"] for row in last]))


def episode_length(folder: str, env: str) -> float:
    """Frames per episode over the last 100,000 of a million."""
    return 100_000 / sum(row["episodes"] for row in last_windows(folder, env))


def entropies(folder: str) -> dict[str, float]:
    """Every game's, in nats, over the last 50,000 of a million frames of a suite."""
    last = [row for row in rows(f"{folder}/training.csv") if row["frames"] == "1000000"]
    return {row["env"].partition(":")[2]: float(row["entropy"]) for row in last}


def published_mean(game: str, what: str) -> float:
    """Over OpenAI's three runs of PPO, after nearly a million frames; what: entropy or length, a column."""
    three = [float(row[what]) for row in rows("ppo_published.csv") if row["game"] == game]
    assert len(three) == 3
    return float(np.mean(three))


def suite_in_training() -> np.ndarray:
    """(games,) normalised returns of the end of the suite's training, as published PPO's are of training."""
    envs = [f"procgen:{game}" for game in GAMES]
    return np.array([normalised_return(env, last_return_in_training(SUITE, env)) for env in envs])


def ppo_in_training(frames: float) -> np.ndarray:
    """(games,) published PPO's normalised returns after so many frames."""
    returns = {game: ppo_return(f"procgen:{game}", "train", frames) or 0.0 for game in GAMES}
    return np.array([normalised_return(f"procgen:{game}", value) for game, value in returns.items()])
