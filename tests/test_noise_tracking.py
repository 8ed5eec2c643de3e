"""Tracking the noise scale in training: the same gradient, the right squares, numbers that come back."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

import train
from gradient_noise.noise_estimators import flat, gradient, measure
from gradient_noise.noise_tracking import EVERY, NoiseTracker, noise_of, noise_summary
from lm_settings.train_settings import Config, resolve
from optimisation.lm_learner import Learner
from tiny_decoder import random_tokens, tiny_decoder


def batch(model, size: int, seed: int):
    tokens = random_tokens(model, size, model.shape.context + 1, seed)
    return tokens[:, :-1], tokens[:, 1:]


def loss_with(model):
    return lambda inputs, targets: torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def test_two_halves_give_the_gradient_and_the_loss_of_the_whole():
    model = tiny_decoder()
    inputs, targets = batch(model, 6, 3)
    expected = gradient(model, (inputs, targets))
    tracker = NoiseTracker(model, 6)
    loss = tracker.backward(loss_with(model), inputs, targets)
    assert float(loss) == pytest.approx(float(loss_with(model)(inputs, targets).detach()), rel=1e-5)
    for p, g in zip(model.parameters(), expected, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad.to_dense(), g.to_dense(), rtol=1e-4, atol=1e-6)


def test_a_row_has_the_moments_of_the_steps_before_it():
    model = tiny_decoder()
    batches = [batch(model, 6, seed) for seed in range(3)]
    squared_norm, trace = measure(model, batches, 2).moments()
    tracker = NoiseTracker(model, 6)
    for inputs, targets in batches:
        model.zero_grad()
        tracker.backward(loss_with(model), inputs, targets)
    again = NoiseTracker(model, 6)
    again.load(json.loads(json.dumps(tracker.state())))
    for one in (tracker, again):
        row = one.take()
        assert row["noise_squared_norm"] == pytest.approx(squared_norm.mean(), rel=1e-3, abs=1e-6)
        assert row["noise_trace"] == pytest.approx(trace.mean(), rel=1e-3)
    assert all(math.isnan(value) for value in tracker.take().values())
    assert [step for step in range(9) if tracker.due(step)] == [0, EVERY, 2 * EVERY]


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_rescaled_loss_has_the_same_noise_scale(factor):
    model = tiny_decoder()
    ratios = []
    for scale in (1.0, factor):
        tracker = NoiseTracker(model, 6)
        for seed in range(3):
            model.zero_grad()
            tracker.backward(lambda x, y, by=scale: by * loss_with(model)(x, y), *batch(model, 6, seed))
        row = tracker.take()
        ratios.append(row["noise_trace"] / row["noise_squared_norm"])
    assert ratios[1] == pytest.approx(ratios[0], rel=1e-3)


def test_a_batch_of_odd_size_has_no_halves():
    with pytest.raises(ValueError, match="even number"):
        NoiseTracker(tiny_decoder(), 5)


def test_the_noise_of_a_run_is_that_of_its_last_half():
    nan = math.nan
    metrics = {
        "noise_trace": np.array([900.0, 900.0, 900.0, 20.0, nan, 22.0, 18.0]),
        "noise_squared_norm": np.array([1.0, 1.0, 1.0, 2.0, nan, 2.2, 1.8]),
    }
    assert noise_of(metrics, 16).value == pytest.approx(160)
    assert noise_summary(metrics, 16)["noise_scale_tokens"] == pytest.approx(160)
    few = {name: values[:5] for name, values in metrics.items()}
    assert noise_summary({**few, "noise_trace": np.full(5, nan)}, 16)["noise_scale_tokens"] is None


def test_tracking_leaves_training_as_it_was():
    """The weights after ten steps differ by rounding alone."""
    small: dict[str, Any] = {"layers": 1, "heads": 2, "width": 16, "batch": 4, "steps": 10, "length": 8, "vocab": 32}
    weights = []
    for tracked in (False, True):
        settings = resolve(Config(task="repeat", track_noise=tracked, **small))
        learner = Learner(settings, None, torch.device("cpu"), torch.float32)
        for step in range(10):
            train.update(learner, step, 10)
        weights.append(flat(p.detach() for p in learner.model.parameters()))
    assert float((weights[0] - weights[1]).abs().max()) < 1e-3
    assert not torch.equal(weights[0], torch.zeros_like(weights[0]))
