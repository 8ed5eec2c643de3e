"""The three methods: which one flags ask for, old commands and old files, what contradicts itself, the control's arms."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compare
from common.errors import BadInput
from compare import check_environments
from rl_commands import RUNS, TINY, inline, rows, summary, working_folder
from rl_report.comparison_report import panels, report, table
from rl_report.kept_results import arm_and_seed, read_results
from rl_settings.compare_settings import Arm, CompareConfig, arms_of, config_of, resolve_comparison
from rl_settings.recipes import DEFAULT, PPO, PROCGEN, PROCGEN_PPO, RECIPES
from rl_settings.vpg_settings import Config, Settings, resolve
from vpg_learner.running_statistics import RewardScaler
from vpg_learner.vpg_trainer import Trainer

REFERENCE = Path(compare.__file__).resolve().parents[1] / "results" / "reference" / "rl"


@pytest.fixture
def place(tmp_path, monkeypatch):
    yield from working_folder(tmp_path, monkeypatch)


def passes(**flags: Any) -> tuple[str, int, int]:
    """What flags come to: the method, its passes over a batch and the minibatches of each."""
    settings = resolve(Config(**flags))
    return settings.method, settings.epochs, settings.minibatches


# ---------------------------------------------------------------- which method


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ("strict", 1, 1)),
        ({"method": "strict"}, ("strict", 1, 1)),
        ({"method": "strict", "minibatches": 1, "epochs": 1}, ("strict", 1, 1)),
        ({"method": "one-epoch"}, ("one-epoch", 1, 8)),
        ({"method": "one-epoch", "minibatches": 5}, ("one-epoch", 1, 5)),
        ({"method": "one-epoch", "env": "procgen:maze"}, ("one-epoch", 1, 64)),
        ({"method": "ppo"}, ("ppo", 10, 8)),
        ({"method": "ppo", "env": "procgen:maze"}, ("ppo", 3, 8)),
        # as older commands have it
        ({"algo": "vpg"}, ("strict", 1, 1)),
        ({"algo": "vpg", "minibatches": 4}, ("one-epoch", 1, 4)),
        ({"minibatches": 4}, ("one-epoch", 1, 4)),
        ({"algo": "ppo"}, ("ppo", 10, 8)),
        ({"algo": "ppo", "minibatches": 1}, ("ppo", 10, 1)),
        ({"algo": "ppo", "epochs": 1}, ("one-epoch", 1, 8)),
        ({"algo": "ppo", "epochs": 1, "minibatches": 1}, ("strict", 1, 1)),
        # both names, which agree
        ({"algo": "vpg", "method": "one-epoch"}, ("one-epoch", 1, 8)),
        ({"algo": "ppo", "method": "ppo"}, ("ppo", 10, 8)),
    ],
)
def test_flags_ask_for_a_method(flags, expected):
    assert passes(**flags) == expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--method strict --minibatches 64", "--minibatches 64 contradicts --method strict, which takes one step"),
        ("--method one-epoch --minibatches 1", "--minibatches 1 contradicts --method one-epoch: one step is"),
        ("--method strict --epochs 2", "--epochs 2 contradicts --method strict, which takes one pass"),
        ("--method one-epoch --epochs 3", "--epochs 3 contradicts --method one-epoch, which takes one pass"),
        ("--epochs 2", "--epochs 2 contradicts --method strict"),
        ("--method ppo --epochs 1", "--epochs 1 contradicts --method ppo, which takes several passes"),
        ("--method ppo --algo vpg", "--method ppo and --algo vpg, its older name, contradict each other"),
        ("--method strict --algo ppo", "--method strict and --algo ppo, its older name, contradict each other"),
        ("--method strict --clip 0.1", "--clip changes nothing: strict moves nothing within a batch"),
        ("--minibatches 0", "--minibatches must be positive, not 0"),
        ("--method vpg", "vpg"),
    ],
)
def test_a_method_that_contradicts_other_flags_is_one_sentence(place, monkeypatch, capsys, arguments, sentence):
    assert inline(monkeypatch, *arguments.split()) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
    assert not list(place.glob("results/rl/*/metrics.csv"))


def test_a_run_by_an_older_name_is_the_same_run(place, monkeypatch, capsys):
    """It finds the folder of its new name, and the headline names the method."""
    for words in ("--method one-epoch --minibatches 4", "--algo vpg --minibatches 4", "--minibatches 4"):
        assert inline(monkeypatch, *TINY, *words.split()) == 0
    (folder,) = RUNS.iterdir()
    assert json.loads((folder / "config.json").read_text())["config"]["method"] == "one-epoch"
    told = capsys.readouterr().out
    assert told.count("already done") == 2
    assert told.count("CartPole-v1, one epoch of PPO's clip, 4 minibatches: return") == 3


def test_an_older_config_json_is_repeated(place, monkeypatch):
    """Its `algo` is read; what it lacks has its default."""
    assert inline(monkeypatch, *TINY, "--algo", "ppo", "--seed", "5", "--name", "a") == 0
    record = json.loads((RUNS / "a" / "config.json").read_text())
    arguments = {name: value for name, value in record["arguments"].items() if name not in ("method", "reward_gamma")}
    assert arguments["algo"] == "ppo"
    (place / "old.json").write_text(json.dumps({"arguments": {**arguments, "name": "b"}, "config": {}}))
    assert inline(monkeypatch, "--from-config", "old.json") == 0
    assert rows("a") == rows("b")
    assert summary("b")["headline"].startswith("CartPole-v1, PPO: return")


# ---------------------------------------------------------------- what recipes come to


def old_settings(env: str, algo: str, minibatches: int | None = None) -> dict[str, Any]:
    """Recipes as they were put together when vpg and ppo were the methods."""
    procgen = env.startswith("procgen:")
    own = {**DEFAULT, **(PROCGEN if procgen else RECIPES.get(env, {}))}
    if algo == "ppo":
        return {**own, **(PROCGEN_PPO if procgen else PPO)}
    parts = minibatches or 1
    several = {"num_envs": 64, "horizon": 4 * parts, "gamma": 0.99} if procgen and parts > 1 else {}
    if env == "CartPole-v1" and parts > 1:
        several = {"lr": 1e-3}
    return {**own, **several, "minibatches": parts}


@pytest.mark.parametrize("env", [*RECIPES, "Anything-v0", "procgen:maze"])
@pytest.mark.parametrize(("algo", "minibatches"), [("vpg", None), ("vpg", 16), ("vpg", 64), ("ppo", None)])
def test_every_recipe_is_what_it_was(env, algo, minibatches):
    """But for the scaling of rewards in Procgen's ppo, which has OpenAI's discount, and one-epoch's rate in CartPole."""
    found = asdict(resolve(Config(env=env, algo=algo, minibatches=minibatches)))
    expected = old_settings(env, algo, minibatches)
    if algo == "vpg" and not minibatches:
        expected |= {"clip": 0.0, "value_clip": 0.0}
    expected.setdefault("reward_gamma", expected["gamma"])
    assert {name: found[name] for name in expected} == expected


def test_rewards_are_scaled_with_a_discount_of_their_own():
    ppo = resolve(Config(env="procgen:maze", method="ppo"))
    assert (ppo.gamma, ppo.reward_gamma) == (0.999, 0.99)
    assert resolve(Config(env="procgen:maze", method="ppo", reward_gamma=0.999)).reward_gamma == 0.999
    assert resolve(Config(env="procgen:maze", method="one-epoch", gamma=0.999)).reward_gamma == 0.999
    assert resolve(Config(env="LunarLander-v3", method="ppo")).reward_gamma == 0.995
    trainer = Trainer(resolve(Config(env="Acrobot-v1", num_envs=2, horizon=4, reward_gamma=0.5)), torch.device("cpu"))
    assert trainer.collector.reward_scaler is not None
    assert trainer.collector.reward_scaler.gamma == 0.5
    trainer.close()


@pytest.mark.parametrize(("gamma", "ratio"), [(0.99, 1.0), (0.999, 10.0)])
def test_a_longer_discount_makes_rewards_smaller(gamma, ratio):
    """Rewards of +1 and -1 in long stretches: their discounted return wanders as far as its horizon allows."""
    scaler = RewardScaler(1, gamma)
    rewards = np.tile(np.repeat([1.0, -1.0], 20_000), 2)[:, None].astype(np.float32)
    none = np.zeros_like(rewards, dtype=bool)
    scaled = scaler(rewards, none, ~none)
    # after a change of sign the return goes from -1/(1-gamma) to 1/(1-gamma), so its deviation is about 1/(1-gamma)
    assert 1 / scaled[0, 0] == pytest.approx(100 * ratio, rel=0.12)


# ---------------------------------------------------------------- comparisons


def arms(**flags: Any) -> list[Arm]:
    settings = resolve_comparison(CompareConfig(**flags))
    check_environments(settings)
    return arms_of(settings)


@pytest.mark.parametrize(
    ("flags", "labels"),
    [
        ({}, ["strict policy gradient", "one epoch of PPO's clip, 8 minibatches", "PPO"]),
        ({"algos": ("vpg", "ppo")}, ["strict policy gradient", "PPO"]),
        ({"methods": ("ppo", "strict")}, ["PPO", "strict policy gradient"]),
        (
            {"methods": ("one-epoch",), "minibatches": (4, 2)},
            [f"one epoch of PPO's clip, {n} minibatches" for n in (4, 2)],
        ),
        (
            {"algos": ("vpg",), "minibatches": (1, 4)},
            ["strict policy gradient", "one epoch of PPO's clip, 4 minibatches"],
        ),
        ({"minibatches": (4,)}, ["one epoch of PPO's clip, 4 minibatches", "PPO"]),
    ],
)
def test_each_method_is_an_arm_with_a_name_of_its_own(flags, labels):
    assert [arm.label for arm in arms(**flags)] == labels


def test_the_suites_arms():
    assert {(arm.method, arm.minibatches) for arm in arms_of(resolve_comparison(CompareConfig(suite="procgen")))} == {
        ("strict", 1)
    }
    several = arms_of(resolve_comparison(CompareConfig(suite="procgen", minibatches=(64,))))
    assert {(arm.method, arm.minibatches) for arm in several} == {("one-epoch", 64)}
    assert len(several) == 16


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"methods": ("strict",), "minibatches": (64,)}, "--minibatches are one-epoch's"),
        ({"methods": ("one-epoch",), "minibatches": (1, 4)}, "--minibatches 1 contradicts one-epoch"),
        ({"methods": ("strict",), "algos": ("vpg",)}, "exclude each other"),
        ({"methods": ("strict", "strict")}, "--methods must name at least one, and none twice"),
        ({"methods": ("ppo",), "baselines": ("none",)}, "--baselines are of strict and one-epoch"),
        ({"suite": "procgen-control", "methods": ("ppo",)}, "names its own methods"),
        ({"suite": "procgen-control", "envs": ("CartPole-v1",)}, "is of Procgen's games"),
    ],
)
def test_a_comparison_that_contradicts_itself_is_refused(flags, sentence):
    with pytest.raises(BadInput, match=sentence):
        resolve_comparison(CompareConfig(**flags))


def test_the_control_tells_passes_from_discount_and_minibatches():
    """One pass, the same batch in PPO's number of steps, and PPO's three passes with one pass's discount and minibatches."""
    config = resolve_comparison(
        CompareConfig(suite="procgen-control", envs=("procgen:maze",), encoders=("impala-glorot",))
    )
    check_environments(config)
    found = arms_of(config)
    assert [arm.label for arm in found] == [
        "one epoch of PPO's clip, 64 minibatches, impala-glorot",
        "one epoch of PPO's clip, 24 minibatches, horizon 256, impala-glorot",
        "PPO, 64 minibatches, γ = 0.99, impala-glorot",
    ]
    single, fewer, ppo = (resolve(config_of(config, arm, 0)) for arm in found)
    assert {(s.num_envs, s.horizon, s.gamma, s.reward_gamma, s.lr) for s in (single, fewer, ppo)} == {
        (64, 256, 0.99, 0.99, 5e-4)
    }
    assert [s.epochs * s.minibatches for s in (single, fewer, ppo)] == [64, 24, 192]
    assert [s.epochs for s in (single, fewer, ppo)] == [1, 1, 3]
    paper = resolve(Config(env="procgen:maze", method="ppo", encoder="impala-glorot"))
    assert paper.epochs * paper.minibatches == fewer.minibatches
    # what else sets PPO apart from one pass is the clip of the values, which is OpenAI's
    names = [name for name in asdict(ppo) if getattr(ppo, name) != getattr(single, name)]
    assert names == ["method", "value_clip", "epochs"]
    assert replace(ppo, method="one-epoch", value_clip=single.value_clip, epochs=1) == single
    assert len({arm.key for arm in found}) == 3
    assert len(arms_of(resolve_comparison(CompareConfig(suite="procgen-control")))) == 12


# ---------------------------------------------------------------- kept tables


def test_rows_by_older_names_are_told_rightly():
    """As the committed tables have them: with and without a column for minibatches."""
    row = {"env": "procgen:maze", "baseline": "gae", "seed": "3"}
    for more, expected in (
        ({"algo": "vpg"}, Arm("procgen:maze", "strict", minibatches=1)),
        ({"algo": "vpg", "minibatches": "1"}, Arm("procgen:maze", "strict", minibatches=1)),
        ({"algo": "vpg", "minibatches": "16"}, Arm("procgen:maze", "one-epoch", minibatches=16)),
        ({"algo": "ppo", "minibatches": "", "encoder": "impala"}, Arm("procgen:maze", "ppo", encoder="impala")),
        (
            {"method": "ppo", "minibatches": "64", "encoder": "", "gamma": "0.99", "horizon": ""},
            Arm("procgen:maze", "ppo", minibatches=64, gamma=0.99),
        ),
    ):
        assert arm_and_seed({**row, **more}) == (expected, 3)
    for wrong in ("reinforce", ""):
        with pytest.raises(ValueError, match="is no method"):
            arm_and_seed({**row, "method": wrong, "minibatches": ""})


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in (REFERENCE / "procgen").glob("*/curves.csv")))
def test_the_committed_runs_are_of_the_methods_that_their_folders_say(folder):
    found = {arm.method for arm in read_results(REFERENCE / "procgen" / folder)}
    assert found == {"ppo" if folder.startswith("ppo") else "one-epoch"}


def test_three_methods_are_three_rows_and_a_written_table_is_read_again(tmp_path):
    """As compare.py has them by default; the panel of the figure has a line for each."""
    curve = [{"step": step, "seconds": step / 1e3, "eval_return": 480.0} for step in (8192.0, 16384.0)]
    ends = {"eval_return_mean": 500.0, "eval_return_greedy_mean": 500.0, "steps": 131_072}
    known = {"status": "ok", **ends, "steps_per_second": 2e4, "train_seconds": 6.5}
    results = {arm: [{"seed": 0, "summary": known, "curve": curve}] for arm in arms()}
    made = report(tmp_path, results)
    names = [line.split(" | ")[1] for line in made.splitlines()[2:5]]
    assert names == ["strict policy gradient", "one epoch of PPO's clip, 8 minibatches", "PPO"]
    assert "| 1 of 1, 8,192, 8.2 |" in made
    read = read_results(tmp_path)
    assert list(read) == list(results)
    assert table(read) == made == (tmp_path / "table.md").read_text()
    assert list(panels(read)["CartPole-v1"]) == names
    header = (tmp_path / "runs.csv").read_text().splitlines()[0]
    assert header.startswith("env,method,baseline,minibatches,encoder,gamma,horizon,seed,status,")


def test_a_run_is_described_by_all_its_settings():
    """Every setting is a flag, and none is without a value."""
    settings = resolve(Config(env="procgen:maze", method="one-epoch"))
    assert set(Settings.__dataclass_fields__) <= set(Config.__dataclass_fields__)
    assert None not in asdict(settings).values()
