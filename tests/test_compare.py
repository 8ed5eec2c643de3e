"""compare.py: its statistics by hand, every arm and seed once, a stopped comparison, bad input."""

import csv
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import compare
from common.errors import BadInput
from common.pool import Finished, Job
from rl_commands import RUNS, inline
from rl_report import seed_statistics
from rl_settings.compare_settings import Arm, CompareConfig, CompareSettings, resolve_comparison
from rl_settings.vpg_settings import Config


def test_interquartile_mean_by_hand():
    assert seed_statistics.interquartile_mean(np.array([9.0, 1.0, 2.0, 4.0])) == 3  # 2 and 4
    assert seed_statistics.interquartile_mean(np.array([100.0, 1.0, 2.0, 3.0, -50.0])) == 2  # 1, 2, 3
    assert seed_statistics.interquartile_mean(np.array([[1.0, 5.0], [3.0, 7.0]])).tolist() == [2, 6]
    middle, low, high = seed_statistics.curve_interval(np.array([[1.0, 5.0]] * 4))
    assert middle.tolist() == low.tolist() == high.tolist() == [1, 5]


def test_iqm_and_probability_of_improvement_by_hand():
    games = [np.array([9.0, -7.0]), np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 100.0])]
    assert seed_statistics.iqm_over_games(games) == 3.5  # of eight the middle four: 2, 3, 4, 5
    ours, theirs = [np.array([1.0, 3.0]), np.array([5.0])], [np.array([2.0]), np.array([5.0, 6.0])]
    assert seed_statistics.probability_of_improvement(ours, theirs) == (0.5 + 0.25) / 2
    assert seed_statistics.probability_of_improvement(theirs, ours) == 1 - (0.5 + 0.25) / 2


def test_stratified_intervals_against_binomials():
    """A run of each game is drawn from 0 and 1: the mean of eight is binomial; of one run a game there is no doubt."""
    mean, four = (lambda games: float(np.mean(np.concatenate(games)))), [np.array([0.0, 1.0])] * 4
    assert seed_statistics.stratified_interval(mean, four) == (0.5, 1 / 8, 7 / 8)
    uneven = [np.array([float(i)]) for i in range(16)]
    assert seed_statistics.stratified_interval(mean, uneven) == (7.5, 7.5, 7.5)
    over = seed_statistics.stratified_interval(mean, uneven, over_games=True)
    assert over == pytest.approx(seed_statistics.mean_interval(np.arange(16.0)), abs=0.3)
    sure = seed_statistics.stratified_interval(
        seed_statistics.probability_of_improvement, uneven, [game - 1 for game in uneven], over_games=True
    )
    assert sure == (1.0, 1.0, 1.0)  # the games are the same for both


def test_solved_is_the_first_of_two_in_a_row():
    curve = [{"step": float(i), "eval_return": r} for i, r in enumerate([10.0, 480, 400, 475, 500, 500])]
    found = seed_statistics.solved_at(curve, 475.0)
    assert found is not None
    assert found["step"] == 3
    assert seed_statistics.solved_at(curve[:4], 475.0) is None


def test_compare_runs_every_arm_and_skips_what_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "config_of", small_config_of)
    arguments = ("--envs", "CartPole-v1", "--algos", "vpg", "ppo", "--baselines", "gae", "none", "--seeds", "2")
    more = ("--minibatches", "1", "2", "--workers", "2", "--name", "c")
    for _ in range(2):
        assert inline(monkeypatch, *arguments, *more, script=compare) == 0
    out = capsys.readouterr().out
    assert out.count("| CartPole-v1 | strict policy gradient, whole return |") == 2
    files = {path.name for path in (RUNS / "c").iterdir()}
    assert {"curves.csv", "runs.csv", "table.md", "learning_curves.png", "summary.json"} <= files
    with open(RUNS / "c" / "runs.csv", newline="") as file:
        found = [(row["method"], row["baseline"], row["minibatches"], row["seed"]) for row in csv.DictReader(file)]
    vpg = {"strict": "1", "one-epoch": "2"}.items()
    arms = [("ppo", "gae", ""), *((method, baseline, parts) for baseline in ("gae", "none") for method, parts in vpg)]
    assert sorted(found) == sorted((*arm, seed) for arm in arms for seed in "01")
    assert len([path for path in RUNS.iterdir() if path.name.startswith("CartPole")]) == 10


def small_config_of(settings: CompareSettings, arm: Arm, seed: int, results_dir: str | None = None) -> Config:
    return Config(
        env=arm.env,
        method=arm.method,
        baseline=arm.baseline,
        minibatches=arm.minibatches or None,
        seed=seed,
        total_steps=512,
        num_envs=4,
        horizon=16,
        eval_every=128,
        eval_episodes=4,
        final_episodes=4,
        results_dir=results_dir,
        device="cpu",
    )


class OneRun:
    """A pool that is stopped, or whose second run fails, after the first; two minutes pass with every run."""

    def __init__(self, clock: list[float], stopped: bool):
        self.clock, self.stopped = clock, stopped

    def __enter__(self) -> "OneRun":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, jobs: list[Job], folder: Path) -> Iterator[Finished]:
        curve = [{"step": step, "seconds": step / 1e3, "eval_return": step / 10} for step in (1000.0, 2000.0)]
        ends: dict[str, Any] = {"eval_return_mean": 200.0, "eval_return_greedy_mean": 210.0, "steps": 2000}
        summary = {"status": "ok", **ends, "steps_per_second": 1000.0, "train_seconds": 2.0}
        self.clock[0] += 120
        yield Finished(jobs[-1], {"summary": summary, "curve": curve, "folder": "x"})
        if self.stopped:
            raise KeyboardInterrupt
        yield Finished(jobs[0], error="out of memory")


@pytest.mark.parametrize(("stopped", "code"), [(True, 130), (False, 1)])
def test_what_has_ended_is_reported_where_not_all_does(tmp_path, monkeypatch, capsys, stopped, code):
    """A suite takes hours: its table and its figure are there from the first run on, and name that run alone."""
    monkeypatch.chdir(tmp_path)
    clock = [0.0]
    monkeypatch.setattr(compare, "Pool", lambda *_: OneRun(clock, stopped))
    monkeypatch.setattr(compare, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    arguments = ("--envs", "CartPole-v1", "--algos", "vpg", "ppo", "--seeds", "2", "--name", "c")
    assert inline(monkeypatch, *arguments, script=compare) == code
    files = {path.name for path in (RUNS / "c").iterdir()}
    assert {"curves.csv", "runs.csv", "table.md", "learning_curves.png"} <= files
    assert "summary.json" not in files
    with open(RUNS / "c" / "runs.csv", newline="") as file:
        assert [(row["method"], row["seed"], row["eval_return_mean"]) for row in csv.DictReader(file)] == [
            ("ppo", "1", "200.0")
        ]
    (line,) = (line for line in (RUNS / "c" / "table.md").read_text().splitlines() if "| PPO |" in line)
    assert line.startswith("| CartPole-v1 | PPO | 200.0 (200.0) | 210.0 | 2,000 |")
    assert ("failed: CartPole_v1-strict-gae-s0: out of memory" in capsys.readouterr().out) is not stopped


def test_compare_refuses_bad_input(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments in (("--envs", "Nope-v0"), ("--seeds", "0"), ("--envs", "CartPole-v1", "CartPole-v1")):
        assert inline(monkeypatch, *arguments, script=compare) == 2
    assert capsys.readouterr().err.count("error:") == 3
    with pytest.raises(BadInput):
        resolve_comparison(CompareConfig(first_seed=-1))
    with pytest.raises(BadInput, match="--minibatches are one-epoch's, and --algos does not name it"):
        resolve_comparison(CompareConfig(algos=("ppo",), minibatches=(4,)))
    with pytest.raises(BadInput, match="--minibatches must be positive, not 0"):
        resolve_comparison(CompareConfig(minibatches=(0, 1)))
