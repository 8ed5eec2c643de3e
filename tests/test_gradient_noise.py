"""The noise scale's estimators against closed forms, known covariances and slow references."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.stats import two_batch
from decoder_model.decoder import Decoder, Shape
from decoder_model.kernels import PLAIN
from gradient_noise.noise_estimators import (
    flat,
    gradient,
    hessian_moments,
    loss_of,
    measure,
    parts_of_batch,
    per_example_gradients,
    per_example_moments,
    ratio_of_means,
    token_correlation,
)
from lm_settings.choices import MODERN

positive = st.floats(1e-6, 1e6)


def batch(examples: int, length: int, vocabulary: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(vocabulary, (examples, length + 1), generator=torch.Generator().manual_seed(seed))
    return tokens[:, :-1], tokens[:, 1:]


def decoder() -> Decoder:
    torch.manual_seed(1)
    parts = tuple(part for part in MODERN if part not in ("ngrams", "shift", "zeroinit"))
    return Decoder(Shape(7, 8, 1, 2, 16, parts), kernels=PLAIN)


class Pairs(nn.Module):
    """A net with few parameters, whose Hessian can be written down: tanh of a linear map of the token before."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.table = nn.Parameter(torch.randn(4, 3))
        self.out = nn.Parameter(torch.randn(4, 3))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.table[tokens]) @ self.out.T


@given(positive, positive, st.integers(1, 100), st.integers(1, 100))
def test_two_batch_inverts_the_expected_squares(squared_norm, trace, small, more):
    big = small + more
    found = two_batch(squared_norm + trace / small, squared_norm + trace / big, small, big)
    scale = squared_norm + trace
    assert found[0] == pytest.approx(squared_norm, rel=1e-6, abs=1e-9 * scale)
    assert found[1] == pytest.approx(trace, rel=1e-6, abs=1e-9 * scale * big / more * small)


@pytest.mark.parametrize(("small", "big"), [(4, 4), (8, 4), (0, 4)])
def test_two_batch_needs_two_sizes(small, big):
    with pytest.raises(ValueError, match="two batch sizes"):
        two_batch(1.0, 1.0, small, big)


def draws(ratio: float, count: int, n: int, parts: int, small: int, dimension: int = 200) -> tuple[np.ndarray, float]:
    """Squares (count, n, 2) of small and of big batches, Sigma unequal over directions, and the true B_simple."""
    random = np.random.default_rng(round(1000 * ratio))
    variances = np.geomspace(1, 30, dimension)
    truth = ratio * small * parts
    mean = random.normal(size=dimension)
    mean *= np.sqrt(variances.sum() / truth) / np.linalg.norm(mean)
    found = np.empty((count, n, 2))
    for i in range(count):
        g = mean + random.normal(size=(n, parts, dimension)) * np.sqrt(variances / small)
        found[i, :, 0] = (g**2).sum(-1).mean(-1)
        found[i, :, 1] = (g.mean(1) ** 2).sum(-1)
    return found, truth


@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0, 100.0])
def test_the_interval_covers_the_truth_whether_the_batch_is_larger_or_smaller(ratio):
    squares, truth = draws(ratio, count=200, n=16, parts=8, small=4)
    moments = [two_batch(one[:, 0], one[:, 1], 4, 32) for one in squares]
    intervals = [ratio_of_means(trace, squared_norm) for squared_norm, trace in moments]
    assert 0.90 <= np.mean([truth in interval for interval in intervals]) <= 0.99
    # No saturation: over all draws the two means give the truth, however far beyond the batch it is.
    squared_norm, trace = (np.mean([moment[i] for moment in moments]) for i in range(2))
    assert trace / squared_norm == pytest.approx(truth, rel=0.1)


def test_far_beyond_the_batch_the_interval_says_that_it_has_no_upper_end():
    squares, truth = draws(1000.0, count=40, n=8, parts=4, small=2)
    found = [ratio_of_means(*reversed(two_batch(one[:, 0], one[:, 1], 2, 8))) for one in squares]
    assert sum(interval.hi95 == np.inf for interval in found) > 20
    assert np.mean([truth in interval for interval in found]) >= 0.85
    assert all(interval.lo95 > 0 for interval in found)  # that the noise is large is known all the same


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_a_rescaled_loss_has_the_same_noise_scale(factor):
    squares, _ = draws(10.0, count=1, n=16, parts=8, small=4)
    squared_norm, trace = two_batch(squares[0, :, 0], squares[0, :, 1], 4, 32)
    plain = ratio_of_means(trace, squared_norm)
    scaled = ratio_of_means(factor**2 * trace, factor**2 * squared_norm)
    assert (scaled.value, scaled.lo95, scaled.hi95) == pytest.approx((plain.value, plain.lo95, plain.hi95), rel=1e-9)


def test_fieller_is_the_delta_method_where_the_denominator_is_clear():
    random = np.random.default_rng(0)
    a, b = 5 + random.normal(size=4000), 2 + 0.5 * random.normal(size=4000)
    found = ratio_of_means(a, b)
    variance = (a.var() + found.value**2 * b.var() - 2 * found.value * np.cov(a, b)[0, 1]) / 4000 / b.mean() ** 2
    assert found.value == pytest.approx(a.mean() / b.mean())
    assert (found.hi95 - found.lo95) / 2 == pytest.approx(1.96 * np.sqrt(variance), rel=0.01)


def test_a_ratio_needs_two_measurements():
    with pytest.raises(ValueError, match="two measurements"):
        ratio_of_means([1.0], [1.0])


def test_per_example_gradients_are_those_of_one_example_at_a_time():
    model, data = decoder(), batch(20, 8, 7)
    found = per_example_gradients(model, data)
    for i in (0, 7, 19):
        alone = flat(gradient(model, (data[0][i : i + 1], data[1][i : i + 1])))
        torch.testing.assert_close(found[i], alone, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.mean(0), flat(gradient(model, data)), rtol=1e-4, atol=1e-6)


def test_per_example_moments_are_unbiased():
    torch.manual_seed(0)
    G, N, draws_ = torch.randn(5), 4, 20_000
    gradients = G + torch.randn(draws_, N, 5) * torch.arange(1.0, 6.0)
    found = np.array([per_example_moments(one) for one in gradients])
    truth = np.array([float(G @ G), 55.0])
    assert (np.abs(found.mean(0) - truth) < 4 * found.std(0) / np.sqrt(draws_)).all()


def test_measured_squares_are_those_of_the_gradients():
    model, data = decoder(), batch(12, 8, 7)
    found = measure(model, [data], 3)
    assert (found.small, found.big) == (4, 12)
    whole = gradient(model, data)
    parts = [gradient(model, part) for part in parts_of_batch(data, 3)]
    for i, name in enumerate(found.names):
        assert found.big_squares[0, i] == pytest.approx(float(whole[i].square().sum()), rel=1e-3)
        assert found.small_squares[0, i] == pytest.approx(
            np.mean([float(g[i].square().sum()) for g in parts]), rel=1e-3
        )
        squared_norm, trace = found.moments(name)
        assert squared_norm + trace / 12 == pytest.approx(found.big_squares[:, i], rel=1e-6)
    with pytest.raises(ValueError, match="equal parts"):
        measure(model, [data], 5)


def test_the_two_batch_estimate_of_a_model_agrees_with_per_example_gradients():
    model = decoder()
    squared_norm, trace = per_example_moments(per_example_gradients(model, batch(1024, 8, 7, seed=1)))
    found = measure(model, [batch(64, 8, 7, seed=10 + i) for i in range(16)], 8).b_simple()
    assert trace / squared_norm in found
    assert found.hi95 < 2 * found.lo95  # an interval that says something


def test_hessian_moments_are_those_of_the_hessian_written_out():
    model = Pairs()
    parameters = list(model.parameters())
    data, curvature = batch(60, 5, 4, seed=3), batch(300, 5, 4, seed=4)

    def loss_at(vector: torch.Tensor) -> torch.Tensor:
        table, out = vector[:12].view(4, 3), vector[12:].view(4, 3)
        logits = torch.tanh(table[curvature[0]]) @ out.T
        return F.cross_entropy(logits.flatten(0, 1), curvature[1].flatten())

    at = flat(p.detach() for p in parameters)
    assert float(loss_at(at)) == pytest.approx(float(loss_of(model, curvature).detach()), rel=1e-5)
    H = torch.autograd.functional.hessian(loss_at, at)
    assert isinstance(H, torch.Tensor)
    each = torch.stack([flat(gradient(model, part)) for part in parts_of_batch(data, 60)])
    covariance = torch.cov(each.T)
    mean = each.mean(0)
    trace = float((H @ covariance).trace())
    found = hessian_moments(model, data, 60, curvature)
    assert found == pytest.approx((float(mean @ H @ mean) - trace / 60, trace), rel=1e-3)
    # Over parts of more than one example the estimate is another one of the same number.
    assert hessian_moments(model, data, 20, curvature)[1] == pytest.approx(trace, rel=0.5)


def test_correlated_tokens_are_found():
    T = np.array([16, 64, 256])
    assert token_correlation(T, 5000 * (1 + (T - 1) * 0.01) / T) == pytest.approx((5000, 0.01), rel=0.02)
    level, rho = token_correlation(T, 5000 / T)
    assert level == pytest.approx(5000, rel=1e-3)
    assert abs(rho) < 1e-4
