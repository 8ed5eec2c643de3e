"""The page's numbers of Procgen's suite against the committed runs."""

import numpy as np

from procgen_results import (
    COUNTS,
    PAGE,
    REFERENCE,
    SMALL_BATCH,
    SUITE,
    TEXT,
    entropies,
    numbers,
    ppo_in_training,
    published_mean,
    published_returns,
    results,
    rows,
    suite_in_training,
    with_interval,
)
from rl_report.procgen_report import procgen_figure, procgen_table
from rl_report.published import ppo_return
from rl_report.seed_statistics import iqm_over_games, probability_of_improvement, stratified_interval
from rl_settings.procgen_games import GAMES, normalised_return


def test_the_table_is_that_of_the_runs():
    found = results(SUITE)
    table = procgen_table(found)
    assert table == (REFERENCE / SUITE / "table.md").read_text()
    assert table in PAGE
    assert len({arm.env for arm in found}) == len(GAMES)
    assert {run["summary"]["status"] for runs in found.values() for run in runs} == {"ok"}


def means(folder: str) -> tuple[int, np.ndarray, np.ndarray]:
    """Frames, and every game's normalised return on levels of training: ours, and PPO's after as many frames."""
    runs = [numbers(row) for row in rows(f"{folder}/runs.csv")]
    (steps,) = {int(run["steps"]) for run in runs}
    ours = np.array([normalised_return(run["env"], run["eval_return_mean"]) for run in runs])
    ppo = np.array([normalised_return(run["env"], ppo_return(run["env"], "train", steps) or 0.0) for run in runs])
    assert len(runs) == len(GAMES)
    return steps, ours, ppo


def test_the_means_over_games_are_as_readme_says():
    for folder in ("suite-250k", "suite", SMALL_BATCH, SUITE):
        steps, ours, ppo = means(folder)
        width = "the paper's" if folder in (SMALL_BATCH, SUITE) else "half"
        batch = "64 × 256, 0.99" if folder == SUITE else "64 × 64, 0.999"
        assert f"| {width} | {batch} | {steps:,} | {' | '.join(map(with_interval, (ours, ppo, ours - ppo)))} |" in TEXT
    assert f"mean normalised return over the 16 games of {with_interval(ours)}" in TEXT
    assert f"PPO, three passes, is at {with_interval(ppo)}" in TEXT
    above = int((ours > ppo).sum())
    assert f"In {COUNTS[above]} games it is above PPO, in {COUNTS[len(GAMES) - above]} below" in TEXT


def test_the_means_of_training_are_as_readme_says():
    """Of all episodes in the last two windows, as published PPO's are of training."""
    ours, ppo = suite_in_training(), ppo_in_training(1e6)
    shown = [with_interval(each) for each in (ours, ppo, ours - ppo)]
    assert "frames of training are at {}, PPO's at {}: a difference of {}.".format(*shown) in TEXT


def test_iqm_and_probability_of_improvement_are_as_readme_says():
    envs = {game: f"procgen:{game}" for game in GAMES}
    ours = [np.array([value]) for value in suite_in_training()]
    ppo = [np.array([normalised_return(envs[game], r) for r in published_returns(game)]) for game in GAMES]
    better = [stratified_interval(probability_of_improvement, ours, ppo, over_games=games) for games in (False, True)]
    (middle, low, high), (_, lower, higher) = better
    assert f"with a probability of {middle:.2f} [{low:.2f}, {high:.2f}] ([{lower:.2f}, {higher:.2f}] for other" in TEXT
    mine, (theirs, low, high) = iqm_over_games(ours), stratified_interval(iqm_over_games, ppo)
    assert f"the interquartile means over all runs are {mine:.3f} and {theirs:.3f} [{low:.3f}, {high:.3f}]" in TEXT


def test_the_first_game_is_as_readme_says():
    gpu, cpu = (
        next(numbers(row) for row in rows(f"{folder}/runs.csv") if row["env"] == "procgen:fruitbot")
        for folder in (SMALL_BATCH, "full-1m")
    )
    ppo = ppo_return("procgen:fruitbot", "train", gpu["steps"]) or 0.0
    ours = f"fruitbot returns {gpu['eval_return_mean']:.1f} ({cpu['eval_return_mean']:.1f} with the same seed on a CPU)"
    assert f"{ours}, PPO's {ppo:.1f}" in TEXT


def test_the_rate_of_the_suite_is_as_readme_says():
    rate = sum(float(row["steps_per_second"]) for row in rows(f"{SMALL_BATCH}/runs.csv"))
    assert f"{rate:,.0f} frames per second together" in TEXT
    minutes = np.median([float(row["train_seconds"]) / 60 for row in rows(f"{SUITE}/runs.csv")])
    assert f"{minutes:.0f} minutes of training a game" in TEXT


def test_the_width_in_the_other_games_is_as_readme_says():
    half, full = (
        {row["env"]: normalised_return(row["env"], float(row["eval_return_mean"])) for row in rows(f"{name}/runs.csv")}
        for name in ("suite-1m", SMALL_BATCH)
    )
    others = [env for env in half if env != "procgen:fruitbot"]
    gain = np.array([full[env] - half[env] for env in others])
    games = f"In the other {COUNTS[len(others)]} games that ran at half the width too"
    assert f"{games} the paper's is no gain: {with_interval(gain)}" in TEXT
    assert f"of the normalised return, {COUNTS[int((gain > 0).sum())]} of them higher" in TEXT


def test_the_entropies_are_as_readme_says():
    """After a million frames: ours of the last 50,000, PPO's means of three published runs."""
    ours, discounted = entropies(SMALL_BATCH), entropies(SUITE)
    ppo = {game: published_mean(game, "entropy") for game in GAMES}
    assert [game for game in GAMES if ours[game] <= ppo[game]] == ["dodgeball"]
    assert "in fifteen of the 16 games (all but dodgeball)" in TEXT
    assert f"ninja's {ours['ninja']:.2f} nats and {ppo['ninja']:.2f}, coinrun's {ours['coinrun']:.2f}" in TEXT
    assert f"coinrun's {ours['coinrun']:.2f} and {ppo['coinrun']:.2f}. " in TEXT
    above = COUNTS[sum(discounted[game] > ppo[game] for game in GAMES)]
    assert f"in {above} games, ninja's {discounted['ninja']:.2f}, coinrun's {discounted['coinrun']:.2f}" in TEXT


def test_the_speed_is_as_readme_says():
    found: dict[str, list[float]] = {}
    for row in rows("speed.csv"):
        found.setdefault(row["what"], []).append(float(row["frames_per_second"]))
    rate = {what: np.array(values) for what, values in found.items()}
    adapter = float(np.median(rate["adapter"] / rate["raw engine"]))
    training = float(np.median(rate["training"] / rate["network"]))
    assert f"{adapter:.0%} of the engine's" in TEXT
    assert f"{training:.0%} of what its network's own passes allow" in TEXT
    alone, replayed = (float(row["frames_per_second"]) for row in rows("speed_cuda.csv"))
    assert f"makes {replayed:,.0f} frames per second, and {alone:,.0f} where every kernel" in TEXT


def test_the_figure_can_be_drawn_again(tmp_path):
    procgen_figure(results(SUITE), tmp_path / "figure")
    assert (tmp_path / "figure.png").stat().st_size > 50_000
