"""vpg.py and evaluate.py end to end: what is written, that it learns, resume, bad input."""

import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any, get_args

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import evaluate
import vpg
from common.live import LiveFigure
from common.run import read_metrics
from device_guard import no_float64
from rl_commands import RUNS, TINY, inline, rows, summary, working_folder
from rl_report.learning_curve import learning_curve
from rl_settings.recipes import RECIPES, recipe_for
from rl_settings.seed_purposes import DURING, EVALUATE, FINAL, GREEDY, RESUME, TRAIN, WEIGHTS, seeds
from rl_settings.vpg_choices import Method
from rl_settings.vpg_settings import Config, resolve
from training_runs import training_run
from vpg_learner import policy_step_and_value_fit
from vpg_learner.policy_step_and_value_fit import ppo_loss
from vpg_learner.vpg_trainer import Trainer


@pytest.fixture
def place(tmp_path, monkeypatch):
    yield from working_folder(tmp_path, monkeypatch)


# ---------------------------------------------------------------- what is written


def test_a_run_writes_what_the_interface_promises(place, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert inline(monkeypatch, *TINY, "--name", "a") == 0
    out = capsys.readouterr().out
    assert "512 steps in 8 updates of 64" in out
    files = {path.name for path in (RUNS / "a").iterdir()}
    assert {"config.json", "metrics.csv", "summary.json", "checkpoint.pt", "learning_curve.png"} <= files
    found = summary("a")
    keys = (
        "eval_return_mean eval_return_greedy_mean eval_return_lo95 eval_return_hi95 eval_episodes steps train_seconds"
    )
    assert set(keys.split()) | {"steps_per_second", "status"} <= set(found)
    assert found["status"] == "ok"
    assert found["eval_episodes"] == 4
    assert found["eval_return_lo95"] <= found["eval_return_mean"] <= found["eval_return_hi95"]
    metrics = read_metrics(RUNS / "a" / "metrics.csv")
    assert (np.diff(metrics["step"]) > 0).all()
    assert metrics["step"][-1] == found["steps"] >= 512
    # CartPole's version resets in a step of its own, which counts nowhere: fewer than 64 in an update
    assert (np.diff(metrics["step"]) <= 64).all()
    assert np.isfinite(metrics["eval_return"]).sum() == 4
    assert (metrics["entropy"] <= math.log(2) + 1e-6).all()
    assert inline(monkeypatch, *TINY, "--name", "a") == 0
    assert "already done" in capsys.readouterr().out


def test_the_curve_is_drawn_on_the_way_and_changes_no_number(place, monkeypatch, capsys):
    drawn: list[bool] = []
    monkeypatch.setattr(vpg, "learning_curve", lambda *what: drawn.append(what[-1] is None))
    assert inline(monkeypatch, *TINY, "--name", "a") == 0
    assert drawn == [False]  # at the end only: it took no ten seconds
    monkeypatch.setattr(training_run, "LiveFigure", partial(LiveFigure, share=1e9, after=0.0))
    assert inline(monkeypatch, *TINY, "--name", "b") == 0
    assert drawn[1:] == [True] * (summary("b")["updates"] - 1) + [False]
    assert rows("a") == rows("b")
    monkeypatch.undo()
    learning_curve(place / RUNS / "a", "CartPole-v1", None)
    assert (place / RUNS / "a" / "learning_curve.png").stat().st_size > 5_000


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(place, monkeypatch):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert inline(monkeypatch, *TINY, "--name", name, "--seed", seed) == 0
    assert rows("a") == rows("b")
    assert rows("a") != rows("c")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--env", "Pendulum-v1"),
        ("--env", "FrozenLake-v1"),
        ("--env", "MountainCarContinuous-v0", "--algo", "ppo", "--minibatches", "3", "--epochs", "2"),
        ("--env", "Acrobot-v1", "--baseline", "none", "--normalise-rewards"),
        ("--baseline", "reward-to-go", "--no-normalise-advantages"),
        ("--baseline", "value", "--entropy", "0.01", "--anneal"),
        ("--num-envs", "1", "--horizon", "64"),
    ],
    ids=lambda a: "-".join(a).replace("--", ""),
)
def test_kinds_of_environments_and_settings(place, monkeypatch, arguments):
    assert inline(monkeypatch, *TINY, *arguments, "--name", "a") == 0
    assert math.isfinite(summary("a")["eval_return_mean"])


def test_no_float64_reaches_the_networks(place, monkeypatch):
    with no_float64():
        config = resolve(Config(env="Pendulum-v1", total_steps=256, num_envs=4, horizon=32, algo="ppo"))
        trainer = Trainer(config, torch.device("cpu"))
        trainer.update()
        trainer.update()
        trainer.close()


class Pictures(gymnasium.Env):
    """Images of one colour; the action that has its number is right."""

    observation_space = spaces.Box(0, 255, (36, 36, 3), dtype=np.uint8)
    action_space = spaces.MultiDiscrete([2, 2])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.count = 0
        return self.picture(), {}

    def picture(self) -> np.ndarray:
        self.right = self.np_random.integers(2, size=2)
        return np.full((36, 36, 3), [200 * self.right[0], 200 * self.right[1], 90], np.uint8)

    def step(self, action: Any):
        reward = float((action == self.right).sum())
        self.count += 1
        return self.picture(), reward, False, self.count >= 10, {}


def test_images_and_a_users_own_environment_are_learnt(place, monkeypatch):
    """Two points a step at best, one by chance; `module:Id` imports the module that registers it."""
    module = place / "my_pictures.py"
    module.write_text(
        "import gymnasium\nfrom test_vpg_pictures import Pictures\ngymnasium.register('Pic-v0', Pictures)\n"
    )
    sys.modules["test_vpg_pictures"] = sys.modules[__name__]
    monkeypatch.syspath_prepend(str(place))
    learning = "--total-steps 4096 --num-envs 8 --horizon 8 --gamma 0 --lr 0.002 --value-epochs 1 --device cpu"
    arguments = ("--env", "my_pictures:Pic-v0", *learning.split(), "--final-episodes", "8", "--eval-every", "0")
    assert inline(monkeypatch, *arguments, "--name", "a") == 0
    assert summary("a")["eval_return_greedy_mean"] > 18  # of 20; 10 by chance


# ---------------------------------------------------------------- learning


def test_one_epoch_and_one_minibatch_of_ppo_are_vpg(place, monkeypatch):
    """The same weights after the same batches, whatever the clip."""
    states = []
    for algo in ("vpg", "ppo"):
        config = Config(algo=algo, total_steps=512, num_envs=4, horizon=32, lr=0.01, epochs=1, minibatches=1)
        trainer = Trainer(resolve(config), torch.device("cpu"))
        for _ in range(4):
            trainer.update()
        states.append(trainer.model.state_dict())
        trainer.close()
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value)


@pytest.mark.parametrize(("algo", "clip", "passes"), [("vpg", 0.1, 1), ("ppo", 0.2, 2)])
def test_minibatches_of_a_pass_count_by_the_clipped_ratio(monkeypatch, algo, clip, passes):
    seen: list[tuple[float, int]] = []

    def spy(model: Any, batch: Any, weights: Any, count: int, clip: float) -> torch.Tensor:
        seen.append((clip, count))
        return ppo_loss(model, batch, weights, count, clip)

    monkeypatch.setattr(policy_step_and_value_fit, "ppo_loss", spy)
    trainer = Trainer(
        resolve(Config(algo=algo, num_envs=4, horizon=30, epochs=passes, minibatches=3, clip=clip)),
        torch.device("cpu"),
    )
    trainer.update()
    trainer.close()
    assert [clip for clip, _ in seen] == [clip] * 3 * passes
    assert all(35 < count <= 40 for _, count in seen)  # less what environments needed to reset themselves


def test_cartpole_is_learnt_in_a_second():
    """475 points within 25,000 steps, by the default recipe: one step of the policy per batch."""
    config = resolve(Config(env="CartPole-v1", seed=1000))
    assert (config.method, config.total_steps) == ("strict", 65_536)
    trainer = Trainer(config, torch.device("cpu"))
    before = trainer.evaluate(20, False, FINAL)[0].mean()
    while trainer.step < 23_000:
        trainer.update()
    after = trainer.evaluate(20, False, FINAL)[0].mean()
    trainer.close()
    assert before < 40
    assert after >= 475


def test_seeds_of_different_purposes_never_meet():
    config = resolve(Config())
    other = resolve(Config(seed=1))
    found = [
        seed
        for one in (config, other)
        for purpose in (
            (WEIGHTS,),
            (TRAIN,),
            (RESUME, 3),
            (DURING, 1),
            (DURING, 2),
            (FINAL,),
            (GREEDY,),
            (EVALUATE, 0),
            (EVALUATE, 1),
        )
        for seed in seeds(one.seed, 32, *purpose)
    ]
    assert len(set(found)) == len(found)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--env", "Nope-v1"), "--env Nope-v1 is unknown"),
        (("--env", "nowhere:Nope-v1"), "--env nowhere:Nope-v1 is unknown"),
        (("--total-steps", "10"), "--total-steps 10 is less than one batch of 2048 steps"),
        (("--gamma", "1.5"), "--gamma must be between 0 and 1"),
        (("--lam", "-0.1"), "--lam must be between 0 and 1"),
        (("--num-envs", "0"), "--num-envs must be positive"),
        (("--lr", "nan"), "--lr must be positive"),
        (("--entropy", "-1"), "--entropy must not be negative"),
        (("--seed", "-1"), "--seed must not be negative"),
        (("--algo", "ppo", "--clip", "1"), "--clip must be between 0 and 1"),
        (("--minibatches", "4", "--clip", "1"), "--clip must be between 0 and 1"),
        (("--clip", "0.1"), "--clip changes nothing: strict moves nothing"),
        (("--no-normalise-rewards", "--reward-gamma", "0.9"), "--reward-gamma changes nothing: rewards are not scaled"),
        (("--reward-gamma", "1.1"), "--reward-gamma must be between 0 and 1"),
        (("--algo", "ppo", "--minibatches", "5000"), "--minibatches 5000 is more than"),
        (("--name", "../a"), "--name"),
        (("--hidden", "0"), "--hidden must be positive"),
        (("--algo", "dqn"), "dqn"),
    ],
    ids=lambda a: "-".join(a).replace("--", "") if isinstance(a, tuple) else "",
)
def test_bad_arguments_are_one_sentence(place, monkeypatch, capsys, arguments, sentence):
    assert inline(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err
    assert not list(place.glob("results/rl/*/metrics.csv"))


def test_a_folder_of_another_run_is_refused(place, monkeypatch, capsys):
    assert inline(monkeypatch, *TINY, "--name", "a") == 0
    assert inline(monkeypatch, *TINY, "--name", "a", "--env", "Acrobot-v1") == 2
    assert "holds a run of another configuration" in capsys.readouterr().err


class Broken(Pictures):
    """Vectors, with a reward or an observation that is no number at the fifth step."""

    observation_space = spaces.Box(-1, 1, (2,), dtype=np.float32)

    def __init__(self, what: str):
        self.what = what

    def picture(self) -> np.ndarray:
        return np.zeros(2, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self.count = 0
        return self.picture(), {}

    def step(self, action: Any):
        self.count += 1
        bad = math.nan if self.count >= 5 else 0.0
        obs = np.full(2, bad if self.what == "observation" else 0.0, np.float32)
        return obs, bad if self.what == "reward" else 0.0, False, False, {}


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_numbers_that_are_none_are_one_sentence(place, monkeypatch, capsys, what):
    gymnasium.register(f"Broken{what}-v0", lambda **_: Broken(what))
    try:
        assert inline(monkeypatch, *TINY, "--env", f"Broken{what}-v0", "--name", "a") == 2
    finally:
        gymnasium.registry.pop(f"Broken{what}-v0")
    assert f"the environment gave a{'n' if what == 'observation' else ''} {what}" in capsys.readouterr().err
    assert not (RUNS / "a" / "summary.json").exists()


def test_a_rate_that_is_far_too_high_is_a_divergence(place, monkeypatch, capsys):
    assert (
        inline(monkeypatch, *TINY, "--env", "Pendulum-v1", "--lr", "1e30", "--max-grad-norm", "0", "--name", "a") == 1
    )
    assert summary("a")["status"] == "diverged"
    assert "diverged after" in capsys.readouterr().out


# ---------------------------------------------------------------- recipes, evaluate.py


def test_recipes_name_settings_and_environments_that_exist():
    fields = set(Config.__dataclass_fields__)
    for env in (*RECIPES, "Anything-v0"):
        for method in get_args(Method):
            assert set(recipe_for(env, method)) <= fields
    for env in RECIPES:
        gymnasium.spec(env)


def test_evaluate_plays_the_latest_run(place, monkeypatch, capsys):
    assert inline(monkeypatch, *TINY, "--env", "Pendulum-v1", "--normalise-observations", "--name", "a") == 0
    capsys.readouterr()
    for _ in range(2):
        assert inline(monkeypatch, "--episodes", "6", "--record", "a.gif", script=evaluate) == 0
    first, again = capsys.readouterr().out.strip().split("}\n{")
    found = json.loads(first + "}")
    assert found == json.loads("{" + again)
    assert found["env"] == "Pendulum-v1"
    assert found["sampled"]["episodes"] == found["greedy"]["episodes"] == 6
    assert found["sampled"]["lo95"] <= found["sampled"]["mean"] <= found["sampled"]["hi95"]
    from PIL import Image

    with Image.open("a.gif") as picture:
        assert 90 <= getattr(picture, "n_frames", 1) <= evaluate.GIF_FRAMES
    assert Path("a.gif").stat().st_size < 1_000_000


def test_evaluate_refuses_what_is_no_run(place, monkeypatch, capsys):
    assert inline(monkeypatch, script=evaluate) == 2
    assert inline(monkeypatch, "--run", "nowhere", script=evaluate) == 2
    (place / "x").mkdir()
    torch.save({"model": {}}, place / "x" / "checkpoint.pt")
    assert inline(monkeypatch, "--run", "x", script=evaluate) == 2
    assert inline(monkeypatch, "--record", "a.mp4", script=evaluate) == 2
    assert capsys.readouterr().err.count("error:") == 4
