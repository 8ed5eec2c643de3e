"""The Procgen suite's table and figure: PPO's published means over games, interpolation, one hand-made set of runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import BadInput
from compare import check_environments
from rl_report.procgen_report import procgen_figure, procgen_table, smoothed, windows
from rl_report.published import ppo_return, random_return
from rl_report.seed_statistics import mean_interval
from rl_settings.compare_settings import CompareConfig, CompareSettings, arms_of, config_of, resolve_comparison
from rl_settings.procgen_games import GAMES, normalised_return
from rl_settings.vpg_settings import Config, resolve


def compared(**flags: Any) -> CompareSettings:
    """What compare.py makes of flags."""
    return resolve_comparison(CompareConfig(**flags))


@pytest.mark.parametrize(
    ("steps", "train", "test"), [(5e5, 0.098, 0.075), (1e6, 0.152, 0.114), (2e6, 0.205, 0.146), (25e6, 0.599, 0.360)]
)
def test_the_mean_over_games_is_the_published_one(steps, train, test):
    """openai/train-procgen's own curves, normalised with the paper's constants: both have to be right."""
    for split, expected in (("train", train), ("test", test)):
        values = [normalised_return(f"procgen:{g}", ppo_return(f"procgen:{g}", split, steps) or 0.0) for g in GAMES]
        assert np.mean(values) == pytest.approx(expected, abs=0.0006)


def test_ppo_starts_where_a_random_policy_is_and_is_linear_between_known_points():
    assert ppo_return("procgen:bigfish", "train", 0) == random_return("procgen:bigfish") == 0.94
    assert ppo_return("procgen:bigfish", "train", 250_000) == 1.051
    assert ppo_return("procgen:bigfish", "train", 375_000) == pytest.approx((1.051 + 1.383) / 2)
    assert ppo_return("procgen:bigfish", "train", 51e6) is None
    assert ppo_return("procgen:bigfish-hard", "train", 1e6) is None
    assert random_return("procgen:bigfish-hard") is None


def test_the_interval_of_the_mean_is_over_games():
    middle, low, high = mean_interval(np.array([0.0, 1.0] * 8))
    assert middle == 0.5
    assert (0.5 - low) == pytest.approx(1.96 * 0.5 / 4, rel=0.15)  # standard error of 16 games with deviation 1/2
    assert (high - 0.5) == pytest.approx(1.96 * 0.5 / 4, rel=0.15)


def runs(steps: int, train: float, test: float) -> list[dict]:
    names = ("eval_return", "eval_return_test", "eval_success", "eval_success_test")
    curve = [
        dict(zip(("step", "seconds", *names), (x, x / 1e3, train, test, 0.5, 0.25), strict=True)) for x in (1e5, 1e6)
    ]
    known = {"eval_return_mean": train, "test_return_mean": test, "eval_success": 0.5, "test_success": 0.25}
    for name, value in (("eval_return", train), ("test_return", test)):
        known |= {f"{name}_lo95": value - 0.5, f"{name}_hi95": value + 0.5}
    return [{"curve": curve, "summary": {"status": "ok", "steps": steps, **known}, "seed": 0}]


def test_the_suite_is_sixteen_games_and_its_table_is_right(tmp_path):
    config = compared(suite="procgen")
    arms = arms_of(config)
    assert [arm.env for arm in arms] == [f"procgen:{game}" for game in GAMES]
    assert {arm.method for arm in arms} == {"strict"}
    assert config.seeds == (1,)
    results = {arm: runs(1_000_000, 6.0, 5.5) for arm in arms}
    table = procgen_table(results).splitlines()
    coinrun = next(line for line in table if line.startswith("| coinrun "))
    assert coinrun == (
        "| coinrun | strict policy gradient | 1,000,000 | 6.00 | 5.50 | 0.20, 0.10 | 50%, 25% | 7.91, 7.47 | 2.50 | 1 |"
    )
    expected = np.mean([normalised_return(arm.env, 6.0) for arm in arms])
    assert table[-1].startswith(f"| **mean of 16** | strict policy gradient | 1,000,000 | | | {expected:.3f} [")
    assert "normalised: 0.152 [" in table[-1]
    assert "| normalised: -0.066 | |" in table[-1]  # a random policy, jumper's 0.29 included
    procgen_figure(results, tmp_path / "figure")
    assert 0 < (tmp_path / "figure.png").stat().st_size < 200_000


def test_training_is_summed_up_in_windows_whose_returns_weigh_every_episode_alike(tmp_path):
    rows = [  # step, episodes, ended_return, entropy, kl, explained_variance, steps_per_second
        (20_000, 1, 10.0, 2.0, 0.01, 0.5, 100.0),
        (50_000, 3, 2.0, 1.0, 0.03, 0.7, 300.0),
        (90_000, 0, float("nan"), 0.5, 0.02, 0.1, 50.0),
        (210_000, 2, 1.0, 0.5, 0.02, 0.1, 50.0),  # two windows without a row, and less than half of one
    ]
    names = "step,episodes,ended_return,entropy,kl,explained_variance,steps_per_second"
    path = tmp_path / "metrics.csv"
    path.write_text("\n".join([names, *(",".join(map(str, row)) for row in rows)]))
    first, second = windows(path)
    expected = {"frames": 50_000, "return": (10 + 3 * 2) / 4, "episodes": 4, "entropy": 1.5, "kl": 0.02}
    assert first == pytest.approx({**expected, "explained_variance": 0.6, "frames_per_second": 200})
    assert (second["frames"], second["episodes"]) == (100_000, 0)
    assert np.isnan(second["return"])


def test_the_figure_draws_the_means_of_two_windows_without_the_first():
    rows = [
        {"frames": 50_000 * (i + 1), "return": r, "episodes": n}
        for i, (r, n) in enumerate([(9.0, 5), (1.0, 1), (3.0, 3), (float("nan"), 0), (float("nan"), 0)])
    ]
    frames, returns = smoothed(rows)
    assert frames.tolist() == [0.15, 0.2, 0.25]
    assert returns[:2].tolist() == [(1 + 3 * 3) / 4, 3.0]
    assert np.isnan(returns[2])


def test_flags_win_over_the_suite_and_the_suite_over_defaults():
    assert compared().envs == ("CartPole-v1",)
    assert compared().seeds == (5,)
    config = compared(suite="procgen", envs=("procgen:maze",), seeds=(3,))
    assert config.envs == ("procgen:maze",)
    assert config.seeds == (3,)


def test_hard_mode_and_diverged_runs_have_their_lines(tmp_path: Path):
    config = compared(envs=("procgen:maze-hard", "procgen:maze"), algos=("vpg",))
    hard, easy = arms_of(config)
    table = procgen_table({hard: runs(2_000, 7.0, 4.0), easy: [{"summary": {"status": "diverged"}, "curve": []}]})
    assert "| maze-hard | strict policy gradient | 2,000 | 7.00 | 4.00 | 0.50, 0.00 | 50%, 25% |  |  | 1 |" in table
    assert "| maze | strict policy gradient | all runs diverged |" in table
    many = arms_of(compared(envs=("procgen:maze-hard",), algos=("vpg",), minibatches=tuple(range(1, 11))))
    procgen_figure(
        {arm: runs(2_000, 7.0, 4.0) for arm in (hard, *many)}, tmp_path / "hard"
    )  # more than there are colours
    assert (tmp_path / "hard.png").exists()


def test_procgen_is_not_compared_with_other_environments():
    with pytest.raises(BadInput, match="table of their own"):
        compared(envs=("CartPole-v1", "procgen:maze"))
    with pytest.raises(BadInput, match="--seeds takes one number"):
        compared(seeds=(1, 2))


def test_the_two_forms_of_a_single_pass_are_arms_of_their_own_with_recipes_of_their_own():
    config = compared(suite="procgen", envs=("procgen:maze",), algos=("vpg", "ppo"), minibatches=(1, 16))
    check_environments(config)
    arms = arms_of(config)
    assert [arm.label for arm in arms] == ["strict policy gradient", "one epoch of PPO's clip, 16 minibatches", "PPO"]
    strict, several, ppo = (resolve(config_of(config, arm, 0)) for arm in arms)
    assert (strict.minibatches, several.minibatches, ppo.minibatches) == (1, 16, 8)
    assert strict == resolve(Config(env="procgen:maze", device="cpu"))
    assert (strict.clip, several.clip, ppo.clip) == (0.0, 0.2, 0.2)
    assert [
        (c.num_envs, c.horizon)
        for c in (resolve(Config(env="procgen:maze", minibatches=parts)) for parts in (2, 16, 64))
    ] == [(64, 8), (64, 64), (64, 256)]
    # no fewer steps per frame
    assert several.num_envs * several.horizon / 16 <= strict.num_envs * strict.horizon


def test_networks_are_arms_of_their_own():
    nets = ("impala", "nature")
    config = compared(envs=("procgen:maze",), algos=("vpg", "ppo"), minibatches=(1, 16), encoders=nets)
    check_environments(config)
    arms = arms_of(config)
    methods = ["strict policy gradient", "one epoch of PPO's clip, 16 minibatches", "PPO"]
    assert [arm.label for arm in arms] == [f"{method}, {net}" for method in methods for net in ("impala", "nature")]
    assert [resolve(config_of(config, arm, 0)).encoder for arm in arms] == [*nets, *nets, *nets]
    with pytest.raises(BadInput, match="--encoders must name at least one, and none twice"):
        compared(envs=("procgen:maze",), encoders=("nature", "nature"))
    with pytest.raises(BadInput, match="--encoders are for images, and CartPole-v1 shows none"):
        check_environments(compared(envs=("CartPole-v1",), encoders=nets))
