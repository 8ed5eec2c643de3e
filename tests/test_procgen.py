"""Procgen: the adapter against the raw engine, levels, ends of games, states, EnvPool's statistics; training on images."""

import csv
import importlib.util
import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate
import gradients
import vpg
from common.errors import BadInput
from envs import Streams, make_streams
from policy import image_encoder
from procgen_env import (
    GAMES,
    MODES,
    RETURN_RANGES,
    TIME_LIMITS,
    ProcgenEngine,
    ProcgenEnvpool,
    game_and_mode,
    make_procgen,
    normalised_return,
)
from rollout import Collector, joined, play
from updates import groups_to_keep

HERE = importlib.util.find_spec("procgen") is not None and importlib.util.find_spec("gym3") is not None
engine = pytest.mark.skipif(not HERE, reason="Procgen's engine has no wheel for this machine")
NOTHING = 4  # the action


def test_ids_name_a_game_and_a_mode():
    assert game_and_mode("procgen:coinrun") == ("coinrun", "easy")
    assert game_and_mode("procgen:starpilot-hard") == ("starpilot", "hard")
    assert len(GAMES) == 16
    for wrong, word in (("procgen:pong", "games are"), ("procgen:coinrun-extreme", "mode"), ("procgen:", "games are")):
        with pytest.raises(BadInput, match=word):
            make_streams(wrong, 1)


def test_returns_are_normalised_as_in_the_paper():
    assert normalised_return("procgen:coinrun", 7.5) == 0.5
    assert normalised_return("procgen:fruitbot-hard", 27.2) == 1.0
    assert normalised_return("procgen:maze", 4.0) == -0.2
    assert normalised_return("procgen:starpilot", 10.8) == pytest.approx(8.3 / 61.5)
    assert all(low < high for ranges in RETURN_RANGES.values() for low, high in ranges)
    assert all(len(ranges) == len(MODES) for ranges in RETURN_RANGES.values())


def raw_engine(environment: ProcgenEngine, seed: int) -> Any:
    """The same engine with gym3 alone."""
    from gym3.libenv import CEnv

    random = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)
    options = {**environment._options, "rand_seed": random, "num_threads": 0}
    return CEnv(environment.num_envs, str(environment._library), options=options)


@engine
@pytest.mark.parametrize("game", ["coinrun", "fruitbot-hard"])
def test_a_step_is_the_raw_engines(game):
    """Observation, reward and end belong to the action just given, also where a game ends; threads change nothing."""
    environment = make_procgen(f"procgen:{game}", 8, 200)
    assert isinstance(environment, ProcgenEngine)
    obs, _ = environment.reset(seed=3)
    raw = raw_engine(environment, 3)
    assert np.array_equal(obs, raw.observe()[1]["rgb"])
    random, ends = np.random.default_rng(0), 0
    for _ in range(400):
        actions = random.integers(15, size=8)
        obs, reward, terminated, truncated, _ = environment.step(actions)
        raw.act({"action": actions.astype(np.int32)})
        raw_reward, raw_obs, raw_first = raw.observe()
        assert np.array_equal(obs, raw_obs["rgb"])
        assert np.array_equal(reward, raw_reward)
        assert np.array_equal(terminated, raw_first)
        assert not truncated.any()
        ends += int(terminated.sum())
    assert ends > 0
    raw.close()
    environment.close()


@engine
def test_a_game_that_its_clock_ends_is_told_apart_from_one_that_is_won():
    """In maze nothing happens to a player that stands still, and the clock stops at 500 steps."""
    streams = make_streams("procgen:maze", 4)
    streams.reset([0])
    actions = np.full(4, NOTHING)
    step = streams.step(actions)
    for t in range(2, 501):
        step = streams.step(actions)
        assert step.terminated.all() == (t == 500)
        assert step.valid.all()
    assert step.timeout is not None
    assert step.success is not None
    assert step.timeout.all()
    assert not step.success.any()
    assert not streams.step(actions).terminated.any()
    streams.close()


@engine
def test_coinrun_gives_ten_points_for_success_and_nothing_else():
    """Running right and jumping now and then wins some levels."""
    streams = make_streams("procgen:coinrun", 32, levels=200)
    streams.reset([1])
    random, won, lost = np.random.default_rng(1), 0, 0
    for _ in range(300):
        step = streams.step(np.where(random.random(32) < 0.5, 7, 8))  # right, right and up
        assert step.success is not None
        assert np.array_equal(step.success, step.reward == 10)
        won, lost = won + int(step.success.sum()), lost + int((step.terminated & ~step.success).sum())
    assert won > 5
    assert lost > 5
    streams.close()


@engine
def test_levels_are_those_that_were_asked_for():
    few, all_levels = (make_procgen("procgen:bigfish", 64, levels) for levels in (5, 0))
    assert isinstance(few, ProcgenEngine)
    assert isinstance(all_levels, ProcgenEngine)
    few.reset(seed=0)
    all_levels.reset(seed=0)
    assert set(few.levels().tolist()) == {0, 1, 2, 3, 4}
    assert (all_levels.levels() > 1000).sum() == 64
    few.close()
    all_levels.close()


@engine
def test_games_go_on_from_their_states_to_the_bit():
    first = make_streams("procgen:starpilot", 6, levels=200)
    first.reset([2])
    random = np.random.default_rng(0)
    for _ in range(120):
        first.step(random.integers(15, size=6))
    saved = first.state()
    assert saved is not None
    second = make_streams("procgen:starpilot", 6, levels=200)
    second.reset([77])
    second.load(saved)
    ended = 0
    for _ in range(200):
        actions = random.integers(15, size=6)
        a, b = first.step(actions), second.step(actions)
        for name in ("obs", "reward", "terminated", "valid", "success", "timeout"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
        ended += int(a.terminated.sum())
    assert ended > 0
    first.close()
    second.close()


@pytest.mark.skipif(not HERE or importlib.util.find_spec("envpool") is None, reason="needs both the engine and EnvPool")
@pytest.mark.parametrize("game", ["coinrun", "fruitbot", "bigfish"])
def test_envpool_has_the_engines_returns_lengths_and_successes(game):
    """Random actions, the first two games of 128 environments: means within four standard errors of each other."""
    found = []
    for kind in (ProcgenEngine, ProcgenEnvpool):
        streams = Streams(kind(game, "easy", 128, 200))
        streams.reset([5])
        random, rows = np.random.default_rng(5), [[] for _ in range(128)]
        total, length = np.zeros(128), np.zeros(128)
        while min(len(row) for row in rows) < 2:
            step = streams.step(random.integers(15, size=128))
            assert step.success is not None
            total += step.reward
            length += step.valid
            for i in np.flatnonzero(step.terminated):
                rows[i].append((total[i], length[i], step.success[i]))
                total[i] = length[i] = 0
        streams.close()
        found.append(np.array([row[:2] for row in rows], dtype=float).reshape(-1, 3))
    a, b = found
    error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b)) + 1e-9
    assert (np.abs(a.mean(0) - b.mean(0)) < 4 * error).all()


class FakePool:
    """EnvPool's way with one game of two environments: games last 3 and 4 steps, and the step after the end only resets."""

    def __init__(self, **options: Any):
        self.options, self.t, self.lasts = options, np.zeros(2, dtype=int), np.array([3, 4])
        self.over = np.zeros(2, dtype=bool)

    def observe(self) -> np.ndarray:
        return np.broadcast_to(self.t[:, None, None, None], (2, 64, 64, 3)).astype(np.uint8)

    def reset(self) -> tuple[np.ndarray, dict]:
        self.t[:], self.over[:] = 0, False
        return self.observe(), {}

    def step(self, actions: np.ndarray) -> tuple:
        assert actions.dtype == np.int32
        self.t = np.where(self.over, 0, self.t + 1)
        reward = np.where(self.over, 0.0, 1.0).astype(np.float32)
        ended = ~self.over & (self.t == self.lasts)
        self.over = ended
        clock = ended & np.array([False, True])  # the second game's clock, the first is won
        return self.observe(), reward, ended & ~clock, clock, {"prev_level_complete": (ended & ~clock).astype(np.int32)}

    def close(self) -> None:
        pass


def test_envpools_second_reset_is_no_transition(monkeypatch):
    made: list[FakePool] = []

    def make(name: str, **options: Any) -> FakePool:
        assert name == "MazeEasy-v0"
        made.append(FakePool(**options))
        return made[-1]

    monkeypatch.setitem(sys.modules, "envpool", types.SimpleNamespace(make=make))
    monkeypatch.setattr("procgen_env.importlib.util.find_spec", lambda name: name == "envpool" or None)
    monkeypatch.setitem(TIME_LIMITS, "maze", 4)
    streams = make_streams("procgen:maze", 2, levels=7)
    streams.reset([0])
    assert made[-1].options["num_levels"] == 7
    assert made[-1].options["channel_first"] is False
    valid, ended, success, timeout = [], [], [], []
    for _ in range(9):
        step = streams.step(np.zeros(2, dtype=np.int64))
        assert step.success is not None
        assert step.timeout is not None
        assert (step.reward == step.valid).all()
        assert not step.truncated.any()
        for rows, value in (
            (valid, step.valid),
            (ended, step.terminated),
            (success, step.success),
            (timeout, step.timeout),
        ):
            rows.append(value.tolist())
    assert [row[0] for row in valid] == [True, True, True, False] * 2 + [True]
    assert [row[1] for row in valid] == [True] * 4 + [False] + [True] * 4
    assert [row[0] for row in ended] == [row[0] for row in success] == [False, False, True, False] * 2 + [False]
    assert [row[1] for row in ended] == [row[1] for row in timeout] == [False] * 3 + [True] + [False] * 4 + [True]
    assert not any(row[0] for row in timeout)
    streams.close()


def test_an_envpool_without_its_libraries_is_one_sentence(monkeypatch):
    def make(*_: Any, **__: Any) -> None:
        raise ImportError("Qt 5 is missing\nand more")

    monkeypatch.setitem(sys.modules, "envpool", types.SimpleNamespace(make=make))
    monkeypatch.setattr("procgen_env.importlib.util.find_spec", lambda name: name == "envpool" or None)
    with pytest.raises(BadInput, match=r"cannot be used: Qt 5 is missing$"):
        make_streams("procgen:maze", 2)


@pytest.mark.parametrize(("kind", "with_norm"), [("impala", "impala-norm"), ("impala-half", "impala-half-norm")])
def test_normalised_features_do_not_die_of_a_drift(kind, with_norm):
    """They are those of the same net, normalised by hand; what moves all of a picture's alike leaves them as they are."""
    torch.manual_seed(0)
    plain = image_encoder(kind, (64, 64, 3))
    torch.manual_seed(0)
    normed = image_encoder(with_norm, (64, 64, 3))
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        before = plain.linear(torch.relu(plain.blocks(images)).flatten(1)).double()  # type: ignore[operator]
        z = (before - before.mean(1, keepdim=True)) / (before.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(normed(images).double(), z.clamp(min=0), atol=1e-5, rtol=1e-4)
        known = normed(images)
        for net in (plain, normed):
            net.linear.bias -= 100  # type: ignore[operator]
        assert not plain(images).any()
        torch.testing.assert_close(normed(images), known, atol=1e-4, rtol=1e-3)


SMALL = {"num_envs": 8, "horizon": 16, "encoder": "nature", "eval_every": 0, "final_episodes": 2, "device": "cpu"}


def small(**more: Any) -> vpg.Config:
    return vpg.Config(**{"env": "procgen:bossfight", **SMALL, **more})


@engine
@pytest.mark.parametrize("critic", ["shared", "detached", "separate"])
def test_values_and_heads_of_a_rollout_are_the_networks(critic):
    trainer = vpg.Trainer(vpg.resolve(small(critic=critic, bf16=False)), torch.device("cpu"))
    rollout = trainer.collector.collect(trainer.model, trainer.random)
    model, flat = trainer.model, rollout.obs.flatten(0, 1)
    with torch.no_grad():
        torch.testing.assert_close(rollout.heads.flatten(0, 1), model.head(flat[:-8]), atol=1e-5, rtol=1e-4)
        if critic == "separate":
            assert rollout.values is None
        else:
            assert rollout.values is not None
            torch.testing.assert_close(rollout.values.flatten(), model.value(flat), atol=1e-5, rtol=1e-4)
    trainer.close()


@engine
@pytest.mark.parametrize(("critic", "trunk_moves"), [("shared", True), ("detached", False)])
def test_only_a_shared_encoder_learns_from_the_values(critic, trunk_moves):
    """With advantages and entropy bonus of zero the policy gradient vanishes, and what is left is the value's."""
    config = vpg.resolve(small(critic=critic, entropy=0.0, bf16=False))
    trainer = vpg.Trainer(config, torch.device("cpu"))
    rollout = trainer.collector.collect(trainer.model, trainer.random)
    batch, _ = vpg.make_batch(config, rollout, trainer.model)
    batch = replace(batch, advantages=torch.zeros(len(batch)), targets=torch.ones(len(batch)))
    before = (
        [p.clone() for p in trainer.model.trunk.parameters()],
        [p.clone() for p in trainer.model.critic.parameters()],
    )
    vpg.update_policy(config, trainer.model, batch, trainer.optimizer, trainer.random)
    moved = [
        any(not torch.equal(p, q) for p, q in zip(now.parameters(), then, strict=True))
        for now, then in zip((trainer.model.trunk, trainer.model.critic), before, strict=True)
    ]
    assert moved == [trunk_moves, True]
    trainer.close()


@engine
@pytest.mark.parametrize("critic", ["shared", "detached"])
@pytest.mark.parametrize("games", [8, 5])  # two groups of four, and one of five
def test_passes_that_acted_give_the_gradient_that_new_ones_give(critic, games):
    config = vpg.resolve(small(critic=critic, bf16=False, num_envs=games))
    trainer = vpg.Trainer(config, torch.device("cpu"))
    rollout = trainer.collector.collect(trainer.model, trainer.random, groups_to_keep(config, trainer.model))
    assert len(rollout.passes) == (2 if games == 8 else 1)
    batch, _ = vpg.make_batch(config, rollout, trainer.model)
    weights = gradients.Weights(0.01, 0.5)
    new, noise = gradients.grouped_gradient(trainer.model, batch, weights, games, 2)
    kept, same = gradients.grouped_gradient(trainer.model, batch, weights, games, 2, rollout.passes)
    for a, b in zip(kept, new, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)
    assert (noise is None) == (same is None) == (games == 5)
    trainer.close()


def test_kept_passes_leave_out_what_is_no_transition():
    passes = [[(torch.full((2, 3), 10.0 * t + g), torch.full((2,), 10.0 * t + g)) for g in (0, 1)] for t in range(3)]
    valid = torch.ones(3, 4, dtype=torch.bool)
    valid[1, 0] = valid[2, 3] = False
    (head, value), (other_head, other) = joined(passes, valid)
    assert value.tolist() == [0, 0, 10, 20, 20]
    assert other.tolist() == [1, 1, 11, 11, 21]
    assert torch.equal(head, value[:, None].expand(5, 3))
    assert torch.equal(other_head, other[:, None].expand(5, 3))
    assert joined([], valid) == []


@engine
def test_training_in_parts_of_the_batch_is_training_on_the_batch(monkeypatch):
    config = vpg.resolve(small(bf16=False))
    trainer = vpg.Trainer(config, torch.device("cpu"))
    rollout = trainer.collector.collect(trainer.model, trainer.random)
    batch, _ = vpg.make_batch(config, rollout, trainer.model)

    weights = gradients.Weights(0.01, 0.5)
    whole = gradients.chunked_gradient(gradients.vpg_loss, trainer.model, batch, weights, len(batch))
    monkeypatch.setattr(gradients, "IMAGES_AT_ONCE", 48)
    parts = gradients.chunked_gradient(gradients.vpg_loss, trainer.model, batch, weights, len(batch))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)
    trainer.close()


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "steps_per_second")} for row in rows]


@engine
@pytest.mark.parametrize("quiet", [True, False])  # one thread; all cores, and the engine's own threads
def test_a_stopped_run_ends_where_an_uninterrupted_one_ends(tmp_path, monkeypatch, quiet):
    given = small(total_steps=8 * 16 * 6, results_dir=str(tmp_path / "a"), minibatches=2)
    _, whole = vpg.run_config(given, quiet=quiet)
    stopped = replace(given, results_dir=str(tmp_path / "b"))

    class Stop(Exception):
        pass

    saves, save = [], vpg.Run.save

    def save_and_stop(self, step, state):
        save(self, step, state)
        saves.append(step)
        if len(saves) == 1:
            raise Stop

    monkeypatch.setattr(vpg, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(vpg.Run, "save", save_and_stop)
    with pytest.raises(Stop):
        vpg.run_config(stopped, quiet=quiet)
    assert saves == [128]
    _, resumed = vpg.run_config(stopped, quiet=quiet)
    assert rows_of(resumed) == rows_of(whole)
    assert json.loads((whole / "config.json").read_text())["config"]["backend"] == "procgen"
    a, b = (json.loads((folder / "summary.json").read_text()) for folder in (whole, resumed))
    for name in ("eval_return_mean", "test_return_mean", "eval_success", "test_return_normalised"):
        assert a[name] == b[name]


@engine
def test_evaluate_plays_levels_of_training_or_all_and_records(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "available_cores", lambda: 1)
    monkeypatch.setattr(evaluate, "GIF_FRAMES", 20)
    given = small(env="procgen:starpilot", total_steps=128, levels=3, results_dir=str(tmp_path))  # its games are short
    _, folder = vpg.run_config(given, quiet=True)
    trained = evaluate.load_run(folder)
    assert trained.levels == 3
    for split in ("train", "test"):
        gif = tmp_path / f"{split}.gif"
        monkeypatch.setattr(
            "sys.argv",
            ["evaluate.py", "--run", str(folder), "--episodes", "2", "--split", split, "--record", str(gif)],
        )
        assert evaluate.main() == 0
        said = json.loads(capsys.readouterr().out)
        assert said["split"] == split
        assert said["sampled"]["normalised"] == pytest.approx((said["sampled"]["mean"] - 2.5) / 61.5)
        assert 0 < gif.stat().st_size < 1 << 20


@engine
def test_play_counts_success_game_by_game():
    streams = make_streams("procgen:coinrun", 4, levels=200)
    trainer = vpg.Trainer(vpg.resolve(small()), torch.device("cpu"))
    returns, successes = play(trainer.model, streams, None, 2, [3])
    assert np.array_equal(successes, returns == 10)
    trainer.close()
    streams.close()


def test_bad_input_is_one_sentence(monkeypatch):
    with pytest.raises(BadInput, match="--levels is for Procgen"):
        vpg.resolve(vpg.Config(levels=10))
    with pytest.raises(BadInput, match="--levels must be"):
        vpg.resolve(small(levels=-1))
    monkeypatch.setattr("procgen_env.importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="needs Procgen"):
        make_streams("procgen:coinrun", 1)


@engine
@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"env": "CartPole-v1", "critic": "shared"}, "no images"),
        ({"env": "CartPole-v1", "bf16": True}, "no images"),
        ({"value_epochs": 3}, "learns with the policy"),
        ({"critic": "separate", "value_weight": 1.0}, "only --critic shared"),
        ({"normalise_observations": True}, "images are not normalised"),
        ({"log_std": -1.0}, "the actions are discrete"),
    ],
)
def test_a_flag_that_changes_nothing_is_refused_and_leaves_nothing(tmp_path, more, why):
    given = small(**{"results_dir": str(tmp_path), "total_steps": 128, **more})
    if given.env == "CartPole-v1":
        given = replace(given, encoder=None)
    with pytest.raises(BadInput, match=why):
        vpg.run_config(given, quiet=True)
    assert list(tmp_path.rglob("*.json")) == []


@engine
def test_a_value_of_no_weight_is_still_a_loss():
    trainer = vpg.Trainer(vpg.resolve(small(value_weight=0.0)), torch.device("cpu"))
    assert np.isfinite(trainer.update()["grad_norm"])
    trainer.close()


@engine
def test_a_collector_keeps_pictures_that_the_engine_overwrites():
    streams = make_streams("procgen:starpilot", 2, levels=200)
    trainer = vpg.Trainer(vpg.resolve(small()), torch.device("cpu"))
    collector = Collector(streams, 20, None, None)
    collector.reset([4])
    first = collector.collect(trainer.model, torch.Generator().manual_seed(0)).obs
    kept = first.clone()
    second = collector.collect(trainer.model, torch.Generator().manual_seed(0)).obs
    assert torch.equal(first, kept)
    assert torch.equal(first[-1], second[0])
    assert len({frame.numpy().tobytes() for frame in first[:, 0]}) > 15  # ships move
    trainer.close()
    streams.close()
