"""Two million frames with three seeds, our PPO, coinrun further on, and strict steps: the texts against the runs."""

import numpy as np

from procgen_results import REFERENCE, TEXT, last_return_in_training, numbers, published_returns, results, rows
from rl_report.procgen_report import procgen_figure, procgen_table
from rl_report.published import ppo_return

GAMES = ("coinrun", "starpilot", "fruitbot")
LONGER, CONTROL, FURTHER = "three-2m", "ppo-full-1m", "coinrun-5m"


def in_training(folder: str, game: str, end: int, seeds: int) -> np.ndarray:
    """(seeds,) mean returns of the last 100,000 frames."""
    return np.array([last_return_in_training(folder, f"procgen:{game}", end, seed) for seed in range(seeds)])


def test_two_million_frames_are_as_readme_says():
    """Every seed's training, and 100 episodes of each at the end, beside published PPO."""
    runs = [numbers(row) for row in rows(f"{LONGER}/runs.csv")]
    assert {(run["status"], run["steps"], run["eval_episodes"]) for run in runs} == {("ok", 2_015_232, 100)}
    assert [(run["env"], run["seed"]) for run in runs] == [(f"procgen:{game}", k) for game in GAMES for k in range(3)]
    final = {}
    for game in GAMES:
        env = f"procgen:{game}"
        each = in_training(LONGER, game, 2_000_000, 3)
        three = [run for run in runs if run["env"] == env]
        names = ("eval_return_mean", "test_return_mean", "eval_return_greedy_mean")
        final[game] = [f"{np.mean([run[name] for run in three]):.2f}" for name in names]
        ppo = [ppo_return(env, split, 2_000_000) or 0.0 for split in ("train", "test")]
        seeds = ", ".join(f"{value:.2f}" for value in each)
        theirs = " | ".join(f"{value:.2f}" for value in ppo)
        assert f"| {game} | {each.mean():.2f} ({seeds}) | {' | '.join(final[game])} | {theirs} |" in TEXT
        assert (each > ppo[0]).tolist() == [game != "fruitbot"] * 3
    assert "with each of its seeds, above published PPO in coinrun and starpilot and, with each, below it in" in TEXT
    (sampled, _, greedy), (safe, _, less) = final["fruitbot"], final["coinrun"]
    assert f"sampled it returns {sampled}, greedy {greedy}." in TEXT
    assert f"return {greedy} over 100 episodes, its sampled ones {sampled}." in TEXT
    assert f"the other way round, {less} and {safe}." in TEXT
    last = [row for row in map(numbers, rows(f"{LONGER}/training.csv")) if row["frames"] == 2_000_000]
    entropy = np.mean([row["entropy"] for row in last if row["env"] == "procgen:fruitbot"])
    assert f"at {entropy:.2f} of {np.log(15):.2f} nats" in TEXT


def test_the_control_is_as_the_page_says():
    """Our PPO, and the single pass after as many frames, beside OpenAI's three runs."""
    runs = [numbers(row) for row in rows(f"{CONTROL}/runs.csv")]
    assert {(run["status"], run["steps"], run["algo"]) for run in runs} == {("ok", 1_015_808, "ppo")}
    assert "within OpenAI's runs in coinrun, just above them in starpilot and below them in fruitbot" in TEXT
    above = {"coinrun": 1, "starpilot": 2, "fruitbot": 0}  # of the least and the best of OpenAI's
    steep = (ppo_return("procgen:fruitbot", "train", frames) for frames in (500_000, 2_000_000))
    assert "({:.1f} after half a million frames, {:.1f} after two)".format(*steep) in TEXT
    for game in GAMES:
        (ppo,), ours = in_training(CONTROL, game, 1_000_000, 1), in_training(LONGER, game, 1_000_000, 3)
        published = published_returns(game)
        spread = f"{min(published):.1f} to {max(published):.1f}"
        curve = ppo_return(f"procgen:{game}", "train", 1e6)
        assert f"| {game} | {ours.mean():.2f} | {ppo:.2f} | {curve:.2f} | {spread} |" in TEXT
        assert ours.mean() > ppo
        assert sum(ppo > each for each in (min(published), max(published))) == above[game]


def test_coinruns_gap_is_as_readme_says():
    found = {(row["split"], row["policy"]): row for row in map(numbers, rows(f"{FURTHER}/evaluations.csv"))}
    train, test = (found[split, "sampled"] for split in ("train", "test"))
    assert {(row["steps"], row["episodes"]) for row in found.values()} == {(4_947_968, 500)}
    shown = ["{return_mean:.2f} [{return_lo95:.2f}, {return_hi95:.2f}]".format(**row) for row in (train, test)]
    assert f"{shown[0]} over 500 episodes on the 200 levels of training and {shown[1]} on all" in TEXT
    ppo = [ppo_return("procgen:coinrun", split, train["steps"]) or 0.0 for split in ("train", "test")]
    gaps = train["return_mean"] - test["return_mean"], ppo[0] - ppo[1]
    assert f"a gap of {gaps[0]:.2f}" in TEXT
    assert f"published PPO's, in training, is {gaps[1]:.2f} ({ppo[0]:.2f} and {ppo[1]:.2f})" in TEXT
    assert train["return_lo95"] > test["return_hi95"]
    last = [numbers(row) for row in rows(f"{FURTHER}/training.csv")][-2:]
    mean = np.average([row["return"] for row in last], weights=[row["episodes"] for row in last])
    assert f"{mean:.2f} over its last 100,000 frames of training" in TEXT
    assert last[1]["frames"] == 4_950_000


def test_the_figure_and_the_table_of_two_million_frames_are_those_of_the_runs(tmp_path):
    found = results(LONGER)
    assert procgen_table(found) == (REFERENCE / LONGER / "table.md").read_text()
    procgen_figure(found, tmp_path / "figure")
    assert (tmp_path / "figure.png").stat().st_size > 15_000


def test_strict_steps_are_as_readme_says():
    """One step of the policy per batch beside a single pass in 16 minibatches: same seed, net and discount."""
    strict, several = (
        {row["env"]: row for row in map(numbers, rows(f"{folder}/runs.csv")) if row["seed"] == 0}
        for folder in ("strict", "suite")
    )
    assert {(row["status"], row["steps"], row["algo"]) for row in strict.values()} == {("ok", 500_224, "vpg")}
    for env, row in strict.items():
        cells = [
            f"{run['eval_return_mean']:.2f} [{run['eval_return_lo95']:.2f}, {run['eval_return_hi95']:.2f}]"
            for run in (row, several[env])
        ]
        ppo = ppo_return(env, "train", 500_000)
        assert f"| {env.partition(':')[2]} | {' | '.join(cells)} | {ppo:.2f} |" in TEXT
    starpilot = [row for row in map(numbers, rows("strict/training.csv")) if row["env"] == "procgen:starpilot"]
    assert all((row["entropy"] > 2) == (row["frames"] <= 200_000) for row in starpilot)
    assert "Strict starpilot's entropy falls to 0 after 200,000 frames" in TEXT
    assert starpilot[-1]["entropy"] < 0.001
