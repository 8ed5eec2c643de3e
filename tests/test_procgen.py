"""Procgen: training on images, its encoders, what is kept of a rollout, a stopped run, evaluation, bad input."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate
from common.errors import BadInput
from common.run import Run
from policy_networks.image_encoders import image_encoder
from procgen_wheel import engine
from rl_report.learning_curve import learning_curve
from rl_settings.vpg_settings import Config, resolve
from training_runs import training_run
from training_runs.training_run import train_or_find
from vector_environments.make_streams import make_streams
from vpg_learner import gradients
from vpg_learner.gae_and_truncation import make_batch
from vpg_learner.playing import play
from vpg_learner.policy_step_and_value_fit import Weights, groups_to_keep, step_policy, vpg_loss
from vpg_learner.rollout import Collector, joined
from vpg_learner.vpg_trainer import Trainer


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


def small(**more: Any) -> Config:
    return Config(**{"env": "procgen:bossfight", **SMALL, **more})


@engine
@pytest.mark.parametrize("critic", ["shared", "detached", "separate"])
def test_values_and_heads_of_a_rollout_are_the_networks(critic):
    trainer = Trainer(resolve(small(critic=critic, bf16=False)), torch.device("cpu"))
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
    config = resolve(small(critic=critic, entropy=0.0, bf16=False))
    trainer = Trainer(config, torch.device("cpu"))
    rollout = trainer.collector.collect(trainer.model, trainer.random)
    batch, _ = make_batch(config, rollout, trainer.model)
    batch = replace(batch, advantages=torch.zeros(len(batch)), targets=torch.ones(len(batch)))
    before = (
        [p.clone() for p in trainer.model.trunk.parameters()],
        [p.clone() for p in trainer.model.critic.parameters()],
    )
    step_policy(config, trainer.model, batch, trainer.optimizers.policy, trainer.random)
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
    config = resolve(small(critic=critic, bf16=False, num_envs=games))
    trainer = Trainer(config, torch.device("cpu"))
    rollout = trainer.collector.collect(trainer.model, trainer.random, groups_to_keep(config, trainer.model))
    assert len(rollout.passes) == (2 if games == 8 else 1)
    batch, _ = make_batch(config, rollout, trainer.model)
    weights = Weights(0.01, 0.5)
    new, noise = gradients.grouped_gradient(vpg_loss, trainer.model, batch, weights, games, 2)
    kept, same = gradients.grouped_gradient(vpg_loss, trainer.model, batch, weights, games, 2, rollout.passes)
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
    config = resolve(small(bf16=False))
    trainer = Trainer(config, torch.device("cpu"))
    rollout = trainer.collector.collect(trainer.model, trainer.random)
    batch, _ = make_batch(config, rollout, trainer.model)

    weights = Weights(0.01, 0.5)
    whole = gradients.chunked_gradient(vpg_loss, trainer.model, batch, weights, len(batch))
    monkeypatch.setattr(gradients, "IMAGES_AT_ONCE", 48)
    parts = gradients.chunked_gradient(vpg_loss, trainer.model, batch, weights, len(batch))
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
    _, whole = train_or_find(given, learning_curve, quiet=quiet)
    stopped = replace(given, results_dir=str(tmp_path / "b"))

    class Stop(Exception):
        pass

    saves, save = [], Run.save

    def save_and_stop(self, step, state):
        save(self, step, state)
        saves.append(step)
        if len(saves) == 1:
            raise Stop

    monkeypatch.setattr(training_run, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(Run, "save", save_and_stop)
    with pytest.raises(Stop):
        train_or_find(stopped, learning_curve, quiet=quiet)
    assert saves == [128]
    _, resumed = train_or_find(stopped, learning_curve, quiet=quiet)
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
    _, folder = train_or_find(given, learning_curve, quiet=True)
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
    trainer = Trainer(resolve(small()), torch.device("cpu"))
    returns, successes = play(trainer.model, streams, None, 2, [3])
    assert np.array_equal(successes, returns == 10)
    trainer.close()
    streams.close()


def test_bad_input_is_one_sentence(monkeypatch):
    with pytest.raises(BadInput, match="--levels is for Procgen"):
        resolve(Config(levels=10))
    with pytest.raises(BadInput, match="--levels must be"):
        resolve(small(levels=-1))
    monkeypatch.setattr("vector_environments.procgen_engine.importlib.util.find_spec", lambda name: None)
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
        ({"critic": "separate", "minibatches": 2, "value_clip": 0.2}, "only --critic shared"),
        ({"value_clip": 0.2}, "strict moves nothing"),
        ({"normalise_observations": True}, "images are not normalised"),
        ({"log_std": -1.0}, "the actions are discrete"),
    ],
)
def test_a_flag_that_changes_nothing_is_refused_and_leaves_nothing(tmp_path, more, why):
    given = small(**{"results_dir": str(tmp_path), "total_steps": 128, **more})
    if given.env == "CartPole-v1":
        given = replace(given, encoder=None)
    with pytest.raises(BadInput, match=why):
        train_or_find(given, learning_curve, quiet=True)
    assert list(tmp_path.rglob("*.json")) == []


@engine
def test_a_value_of_no_weight_is_still_a_loss():
    trainer = Trainer(resolve(small(value_weight=0.0)), torch.device("cpu"))
    assert np.isfinite(trainer.update()["grad_norm"])
    trainer.close()


@engine
def test_a_collector_keeps_pictures_that_the_engine_overwrites():
    streams = make_streams("procgen:starpilot", 2, levels=200)
    trainer = Trainer(resolve(small()), torch.device("cpu"))
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
