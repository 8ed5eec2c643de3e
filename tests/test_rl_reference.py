"""The page's numbers on policy gradients against the committed runs."""

import csv
import itertools
import statistics
from pathlib import Path

import pytest

import vpg
from pages import one_line, page
from rl_report.kept_results import read_results
from rl_report.seed_statistics import solved_at
from rl_settings.compare_settings import Arm

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results/reference/rl"
PAGE = page("rl/README.md")
TEXT = one_line(PAGE)
STRICT = Arm("CartPole-v1", "strict", minibatches=1)
BASELINES = ("none", "reward-to-go", "value", "gae")
# environment: (column, what its mean over seeds reaches, steps), on seeds that the settings were not tuned on
REACHED = {
    "CartPole-v1": ("eval_return_mean", 475, 65_536),
    "Acrobot-v1": ("eval_return_mean", -85, 300_000),
    "LunarLander-v3": ("eval_return_mean", 200, 1_500_000),
    "MountainCar-v0": ("eval_return_greedy_mean", -110, 1_000_000),
    "MountainCarContinuous-v0": ("eval_return_greedy_mean", 90, 300_000),
    "LunarLanderContinuous-v3": ("eval_return_mean", 200, 1_500_000),
    "Pendulum-v1": ("eval_return_greedy_mean", -200, 1_000_000),
    "BipedalWalker-v3": ("eval_return_mean", 250, 3_000_000),
}


def rows(name: str) -> list[dict[str, str]]:
    with open(REFERENCE / name, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("env", REACHED)
def test_every_environment_reaches_its_target(env):
    column, target, steps = REACHED[env]
    mine = [row for row in rows("classic/runs.csv") if row["env"] == env and row["algo"] == "vpg"]
    assert len(mine) >= (3 if env.startswith("Bipedal") else 5)
    assert {row["status"] for row in mine} == {"ok"}
    assert statistics.mean(float(row[column]) for row in mine) >= target
    assert all(steps <= int(row["steps"]) < steps + 4096 for row in mine)  # the last batch may go over


def test_every_seed_learns_pendulum():
    """Without the tail's probability for clipped actions, one of three did not."""
    mine = [row for row in rows("classic/runs.csv") if row["env"] == "Pendulum-v1"]
    assert all(float(row["eval_return_greedy_mean"]) >= -250 for row in mine)


def test_cartpole_is_solved_as_readme_says():
    """By strict policy gradient with GAE: at 475 points after 25,000 steps at most, and with every seed at the end."""
    (runs,) = (runs for arm, runs in read_results(REFERENCE / "baselines").items() if arm == STRICT)
    solved = [found for found in (solved_at(run["curve"], 475.0) for run in runs) if found]
    steps, seconds = (statistics.median(found[name] for found in solved) for name in ("step", "seconds"))
    assert [run["seed"] for run in runs] == list(range(10))
    assert len(solved) == 10
    assert steps <= 25_000
    ends = [run["summary"]["eval_return_mean"] for run in runs]
    assert min(ends) >= 475
    assert f"CartPole-v1 after {steps:,.0f} steps and {seconds:.1f} s of training on one core" in TEXT
    assert f"(median of 10 of 10 seeds; at the end, after 65,536, the least returns {min(ends):.1f})" in TEXT


def test_cartpoles_rows_are_those_of_the_comparison_of_methods():
    """The table of all environments has its strict runs with GAE, but for their headlines."""
    classic = {arm: runs for arm, runs in read_results(REFERENCE / "classic").items() if arm.env == "CartPole-v1"}
    mine = read_results(REFERENCE / "methods")[STRICT]
    for run in mine:
        del run["summary"]["headline"]
    assert classic == {STRICT: mine}


def test_methods_and_baselines_are_compared_on_cartpole():
    """Ten seeds each; strict with GAE has the same runs in both. What the docstring of vpg.py says of three of them."""
    methods, baselines = (read_results(REFERENCE / folder) for folder in ("methods", "baselines"))
    assert [arm.method for arm in methods] == ["strict", "one-epoch", "ppo"]
    assert [arm.baseline for arm in baselines] == ["gae", "value", "reward-to-go", "none"]
    assert {arm.method for arm in baselines} == {"strict"}
    assert methods[STRICT] == baselines[STRICT]
    means, rates = {}, {}
    for arm, runs in {**methods, **baselines}.items():
        assert [run["seed"] for run in runs] == list(range(10))
        means[arm.method, arm.baseline] = statistics.mean(run["summary"]["eval_return_mean"] for run in runs)
        rates[arm.method, arm.baseline] = statistics.median(run["summary"]["steps_per_second"] for run in runs)
    told = one_line(vpg.__doc__ or "")
    assert f"mean of 10 seeds; as it is: {means['strict', 'gae']:.0f}" in told
    slower = rates["strict", "gae"] / rates["ppo", "gae"]
    assert f"--method ppo {means['ppo', 'gae']:.0f}: eighty steps per batch, " in told
    assert f"kept close to the old policy; {slower:.1f} times as slow." in told
    noise = {
        (int(row["updates"]), row["baseline"]): float(row["variance"])
        for row in rows("baselines/gradient_variance.csv")
    }
    for baseline in ("reward-to-go", "none"):
        times = statistics.mean(noise[updates, baseline] / noise[updates, "gae"] for updates in (5, 20))
        assert f"--baseline {baseline} {means['strict', baseline]:.0f}: " in told
        assert f"some {times:.0f} times" in told


@pytest.mark.parametrize("suite", ["classic", "methods", "baselines"])
def test_the_tables_are_those_of_the_runs(suite):
    found = read_results(REFERENCE / suite)
    table = (REFERENCE / suite / "table.md").read_text().strip().splitlines()
    for arm, runs in found.items():
        assert {run["summary"]["status"] for run in runs} == {"ok"}
        mean = statistics.mean(run["summary"]["eval_return_mean"] for run in runs)
        (line,) = [line for line in table if line.startswith(f"| {arm.env} | {arm.label} | ")]
        assert f" {mean:.1f} (" in line
        assert line in PAGE


def two_digits(value: float) -> str:
    """As a person writes it: 420, not 4.2e+02."""
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 100 else f"{value:.2g}"


def test_each_baseline_has_less_variance_than_the_one_before():
    found = {(int(row["updates"]), row["baseline"]): row for row in rows("baselines/gradient_variance.csv")}
    order = BASELINES
    for updates in sorted({key[0] for key in found}):
        for baseline in order:
            row = found[updates, baseline]
            variance, low, high = (two_digits(float(row[name])) for name in ("variance", "lo95", "hi95"))
            text = f"{variance} [{low}, {high}]"
            assert text in PAGE
        values = [float(found[updates, baseline]["variance"]) for baseline in order]
        # A new value function is nearly 0 everywhere, and then as good as none.
        assert all(before >= 0.99 * after for before, after in itertools.pairwise(values))


def test_the_comparison_with_stable_baselines_is_as_readme_says():
    found = rows("classic/beside_sb3.csv")
    (alone,) = [float(row["steps_per_second"]) for row in found if row["seed"] == ""]
    assert f"make {alone:,.0f} steps a second" in TEXT
    for system in {row["system"] for row in found if row["seed"] != ""}:
        mine = [row for row in found if row["system"] == system]
        rate = statistics.median(float(row["steps_per_second"]) for row in mine)
        solved = [row for row in mine if row["solved_seconds"]]
        line = f"| {system} | {rate:,.0f} | {rate / alone:.0%} | {len(solved)} of {len(mine)}"
        if solved:
            steps = statistics.median(float(row["solved_steps"]) for row in solved)
            seconds = statistics.median(float(row["solved_seconds"]) for row in solved)
            line += f", {steps:,.0f}, {seconds:.1f} |"
        assert line in PAGE
