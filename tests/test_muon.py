"""The optimisers against plain ones: singular values, one matrix at a time, PyTorch's own; the schedules by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.files import load_checkpoint, save_checkpoint
from decoder_model.decoder import Decoder
from decoder_model.kernels import FAST, PLAIN
from optimisation.learning_rates import FLAT, inverse_sqrt, trapezoid, warmup_steps
from optimisation.muon import Muon, orthogonalize
from optimisation.optimizer import Optimizer, kind_of
from optimisation.row_adam import BETA2
from tiny_decoder import random_tokens, tiny_decoder

RATES = {"matrix": 0.02, "embedding": 0.03, "ngrams": 0.01, "head": 0.004, "scalar": 0.05}


def matrix(shape: tuple[int, int], condition: float, seed: int) -> tuple[Tensor, Tensor]:
    """A random matrix whose singular values lie between 1 and 1 / `condition`, and the nearest orthogonal one."""
    random = torch.Generator().manual_seed(seed)
    n = min(shape)
    u, v = (torch.linalg.qr(torch.randn(size, n, generator=random))[0] for size in shape)
    s = condition ** -torch.linspace(0, 1, n)
    return u * s @ v.T, u @ v.T


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


# ---------------------------------------------------------------- the nearest orthogonal matrix


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("condition", [1.0, 3.0, 30.0, 100.0])
@pytest.mark.parametrize("shape", [(16, 16), (32, 32), (16, 64), (64, 64)])
def test_every_singular_value_comes_close_to_one(shape, condition, seed):
    x, polar = matrix(shape, condition, seed)
    y = orthogonalize(x[None])[0]
    values = torch.linalg.svdvals(y)
    assert float(values.min()) > 0.7
    assert float(values.max()) < 1.3
    assert cosine(y, polar) > 0.99
    assert float((y - polar).norm() / polar.norm()) < 0.2


def test_the_singular_vectors_stay():
    x, _ = matrix((8, 24), 10.0, 0)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    inner = u.T @ orthogonalize(x[None])[0] @ vh.T  # diagonal
    torch.testing.assert_close(inner, inner.diagonal().diag(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("factor", [1e-3, 0.5, 1e4])
def test_the_size_of_a_matrix_does_not_count(factor):
    x, _ = matrix((16, 32), 20.0, 3)
    torch.testing.assert_close(orthogonalize(factor * x[None]), orthogonalize(x[None]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(orthogonalize(-x[None]), -orthogonalize(x[None]))


def test_matrices_of_a_batch_do_not_mix():
    batch = torch.stack([matrix((8, 16), 5.0, seed)[0] * 10.0**seed for seed in range(4)])
    alone = torch.cat([orthogonalize(x[None]) for x in batch])
    torch.testing.assert_close(orthogonalize(batch), alone, rtol=1e-4, atol=1e-5)


def test_no_gradient_gives_no_update_and_bf16_is_close():
    assert torch.equal(orthogonalize(torch.zeros(2, 4, 8)), torch.zeros(2, 4, 8))
    x, polar = matrix((32, 64), 20.0, 4)
    y = orthogonalize(x[None], torch.bfloat16)[0]
    assert y.dtype == torch.float32
    assert cosine(y, polar) > 0.98
    assert 0.7 < float(torch.linalg.svdvals(y).min()) < float(torch.linalg.svdvals(y).max()) < 1.3


# ---------------------------------------------------------------- Muon

C = 8
SHAPES = [
    (3 * C, C),
    (C, C),
    (4 * C, C),
    (C, 4 * C),
] * 2  # of a block: fused queries, keys and values; output; up; down


def parameters(seed: int = 0) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in SHAPES]


def gradients(step: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(1000 + step)
    return [10.0 ** (i % 3 - 1) * torch.randn(shape, generator=random) for i, shape in enumerate(SHAPES)]


class SlowMuon:
    """One matrix after the other, from the formula in the docstring of Muon."""

    def __init__(self, ps: list[nn.Parameter]):
        self.matrices = [part for p in ps for part in (p.data.split(C) if len(p) == 3 * C else [p.data])]
        self.moments = [torch.zeros_like(w) for w in self.matrices]

    def step(self, gradients: list[Tensor], lr: float, momentum: float, decay: float) -> None:
        parts = [part for g in gradients for part in (g.split(C) if len(g) == 3 * C else [g])]
        for w, m, g in zip(self.matrices, self.moments, parts, strict=True):
            m.copy_(momentum * m + (1 - momentum) * g)
            update = momentum * m + (1 - momentum) * g
            rows, columns = w.shape
            wide = update if rows <= columns else update.T
            orthogonal = orthogonalize(wide[None])[0]
            orthogonal = orthogonal if rows <= columns else orthogonal.T
            w.copy_(w * (1 - lr * decay) - lr * math.sqrt(max(1, rows / columns)) * orthogonal)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_muon_is_the_plain_loop_over_single_matrices(decay):
    ps, expected = parameters(), parameters()
    before = [p.detach().clone() for p in ps]
    ours, slow = Muon(ps), SlowMuon(expected)
    assert len(ours.batches) == 2  # C x C, and 4C x C in both directions
    for step in range(6):
        for p, g in zip(ps, gradients(step), strict=True):
            p.grad = g.clone()
        lr, momentum = 0.1 / (1 + step), 0.85 + 0.01 * step
        ours.step(lr, momentum, decay)
        slow.step(gradients(step), lr, momentum, decay)
        for p, q, g in zip(ps, expected, gradients(step), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
            assert p.grad is not None
            assert torch.equal(p.grad, g)
    assert all(float((p.detach() - b).norm()) > 0.1 for p, b in zip(ps, before, strict=True))


def test_the_first_step_of_a_tall_matrix_has_the_size_of_the_formula():
    p = nn.Parameter(torch.zeros(4 * C, C))
    p.grad = matrix((4 * C, C), 3.0, 0)[0]
    Muon([p]).step(0.5, 0.95, 0.0)
    values = torch.linalg.svdvals(p.detach())
    # lr sqrt(rows / columns) = 0.5 x 2
    assert ((values > 0.7) & (values < 1.3)).all()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
@pytest.mark.parametrize("shape", [(16, 16), (16, 64), (64, 16)])
def test_muon_goes_where_pytorchs_goes(shape):
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours_p, theirs_p = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ours = Muon([ours_p])
    # Newton-Schulz of degree 5 with its classical coefficients, in so many steps that it has converged
    theirs = torch.optim.Muon(
        [theirs_p], lr=0.02, weight_decay=0.0, momentum=0.9, nesterov=True, ns_coefficients=(15 / 8, -10 / 8, 3 / 8),
        ns_steps=15, adjust_lr_fn="original",
    )  # fmt: skip
    for step in range(10):
        # Sums of these stay well-conditioned: PyTorch's products are in bf16, which loses the smallest directions.
        g = matrix(shape, 5.0, 0)[0] + 0.2 * matrix(shape, 5.0, 1 + step)[0]
        before = ours_p.detach().clone(), theirs_p.detach().clone()
        ours_p.grad, theirs_p.grad = g.clone(), g.clone()
        ours.step(0.02, 0.9, 0.0)
        theirs.step()
        one, other = ours_p.detach() - before[0], theirs_p.detach() - before[1]
        assert cosine(one, other) > 0.99
        assert float(one.norm() / other.norm()) == pytest.approx(1.0, abs=0.1)


# ---------------------------------------------------------------- the whole model


def backward(model: Decoder, seed: int) -> None:
    tokens = random_tokens(model, 4, seed=seed)
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten()).backward()


def test_kinds_of_parameters():
    assert {name: kind_of(name, p) for name, p in tiny_decoder(layers=1).named_parameters()} == {
        "embedding": "embedding",
        "ngrams": "ngrams",
        "ngram_output": "ngrams",
        "head": "head",
        "blocks.0.mix": "scalar",
        **{f"blocks.0.{name}": "matrix" for name in ("qkv", "output", "up", "down")},
    }
    assert {name: kind_of(name, p) for name, p in tiny_decoder("vaswani", layers=1).named_parameters()} == {
        "embedding": "embedding",
        **{f"blocks.0.{name}": "matrix" for name in ("qkv", "output", "up", "down")},
        **{f"blocks.0.{name}": "scalar" for name in ("up_bias", "down_bias")},
        **{f"blocks.0.norms.{i}.{name}": "scalar" for i in (0, 1) for name in ("weight", "bias")},
    }


@pytest.mark.parametrize("kind", RATES)
@pytest.mark.parametrize("with_muon", [True, False])
def test_a_rate_moves_its_own_kind_alone(kind, with_muon):
    model = tiny_decoder()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rates = {**dict.fromkeys(RATES, 0.0), kind: RATES[kind]}
    optimizer = Optimizer(model, rates, 0.0, with_muon, torch.float32)
    backward(model, 0)
    optimizer.step(0, 1.0)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (kind_of(name, p) != kind), name
        assert p.grad is None
    assert (optimizer.muon is not None) == with_muon


def test_the_first_step_of_adam_is_the_rate_times_the_scale():
    model = tiny_decoder()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = Optimizer(model, RATES, 0.0, True, torch.float32)
    backward(model, 0)
    optimizer.step(0, 0.25)
    for name, p in model.named_parameters():
        if kind_of(name, p) != "matrix":
            moved = (p - before[name]).detach().abs()
            assert float(moved.max()) == pytest.approx(0.25 * RATES[kind_of(name, p)], rel=1e-3), name


def test_the_momentum_of_muon_rises(monkeypatch):
    model = tiny_decoder()
    optimizer = Optimizer(model, RATES, 0.3, True, torch.float32)
    assert optimizer.muon is not None
    told: list[tuple[float, float, float]] = []
    monkeypatch.setattr(optimizer.muon, "step", lambda *arguments: told.append(arguments))
    for step in (0, 50, 100, 1000):
        backward(model, 0)
        optimizer.step(step, 0.5)
    assert [momentum for _, momentum, _ in told] == pytest.approx([0.85, 0.90, 0.95, 0.95])
    assert {(lr, decay) for lr, _, decay in told} == {(0.5 * RATES["matrix"], 0.3)}


@pytest.mark.parametrize("arch", ["modern", "vaswani"])
@pytest.mark.parametrize("with_muon", [True, False])
def test_what_is_not_muons_is_pytorchs_adamw(arch, with_muon):
    decay = 0.2
    ours, theirs = tiny_decoder(arch), tiny_decoder(arch, kernels=replace(FAST, look_up=PLAIN.look_up))
    optimizer = Optimizer(ours, RATES, decay, with_muon, torch.float32)
    betas, eps = ((0.9, 0.95), 1e-10) if with_muon else ((0.9, 0.98), 1e-9)
    names = dict(theirs.named_parameters())
    adam = torch.optim.AdamW(
        [{"params": [p], "name": name} for name, p in names.items()], betas=betas, eps=eps, foreach=False
    )
    for step in range(8):
        scale = 1 / (1 + step)
        for group in adam.param_groups:
            kind = kind_of(group["name"], names[group["name"]])
            group["lr"] = scale * RATES[kind]
            group["weight_decay"] = decay if kind == "matrix" else 0.0
            if group["name"] == "ngrams":
                group["betas"], group["eps"] = (0.0, BETA2), 1e-10
        backward(ours, step)
        backward(theirs, step)
        optimizer.step(step, scale)
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
                if with_muon and kind_of(name, p) == "matrix":
                    q.copy_(p)  # Muon's own, and its gradients are those of the same model
                torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-5, msg=lambda told, name=name: f"{name}: {told}")


@pytest.mark.parametrize("with_muon", [True, False])
@pytest.mark.parametrize("arch", ["modern", "vaswani"])
def test_a_saved_state_goes_on_with_the_same_bits(arch, with_muon, tmp_path):
    def step(model: Decoder, optimizer: Optimizer, number: int) -> None:
        backward(model, number)
        optimizer.step(number, 0.5)

    model = tiny_decoder(arch)
    optimizer = Optimizer(model, RATES, 0.1, with_muon, torch.float32)
    for number in range(3):
        step(model, optimizer, number)
    save_checkpoint(tmp_path / "state.pt", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    state = load_checkpoint(tmp_path / "state.pt")  # tensors and plain values only, or this fails
    again = tiny_decoder(arch, seed=1)
    loaded = Optimizer(again, RATES, 0.1, with_muon, torch.float32)
    for number in range(2):
        step(again, loaded, number)  # something to forget
    again.load_state_dict(state["model"])
    loaded.load_state_dict(state["optimizer"])
    for number in range(3, 5):
        step(model, optimizer, number)
        step(again, loaded, number)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("with_muon", [True, False])
def test_weight_decay_shrinks_the_blocks_matrices_alone(with_muon):
    model = tiny_decoder()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = Optimizer(model, RATES, 0.5, with_muon, torch.float32)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(0, 1.0)
    for name, p in model.named_parameters():
        factor = 1 - RATES["matrix"] * 0.5 if kind_of(name, p) == "matrix" else 1.0
        torch.testing.assert_close(p.detach(), factor * before[name], msg=name)


@pytest.mark.parametrize("with_muon", [True, False])
def test_the_loss_falls(with_muon):
    model = tiny_decoder()
    tokens = random_tokens(model, 8)

    def loss() -> Tensor:
        return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    optimizer = Optimizer(model, RATES if with_muon else dict.fromkeys(RATES, 0.01), 0.0, with_muon, torch.float32)
    first = float(loss())
    for step in range(40):
        loss().backward()
        optimizer.step(step, 1.0)
    assert float(loss()) < 0.3 * first  # the eight sequences are learned by heart


# ---------------------------------------------------------------- schedules


def test_trapezoid_by_hand():
    # 20 steps, warm-up of 4, flat to step 10, then a tenth less per step
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert [trapezoid(step, 20, 4, 0.5) for step in range(20)] == pytest.approx(expected)
    assert trapezoid(20, 20, 4, 0.5) == 0.0


@pytest.mark.parametrize("flat", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("warmup", [1, 20])
def test_no_step_of_a_run_is_in_vain(steps, warmup, flat):
    scales = [trapezoid(step, steps, warmup, flat) for step in range(steps)]
    assert all(0 < scale <= 1 for scale in scales)
    assert trapezoid(steps, steps, warmup, flat) == 0.0


def test_a_short_run_reaches_its_rate():
    assert [warmup_steps(steps) for steps in (1, 9, 19, 50, 199, 200, 10_000)] == [1, 1, 1, 5, 19, 20, 20]
    assert max(trapezoid(step, 19, warmup_steps(19), FLAT) for step in range(19)) == 1


def test_inverse_square_root_by_hand():
    # width 512, 4000 steps of warm-up: the paper's base model. s = 1, 4000 (the peak), 16000
    table = {0: 512**-0.5 / 4000**1.5, 3999: (512 * 4000) ** -0.5, 15_999: 512**-0.5 / 16_000**0.5}
    for step, rate in table.items():
        assert inverse_sqrt(step, 512, 4000) == pytest.approx(rate)
    assert table[3999] == pytest.approx(6.9877e-4, rel=1e-4)
    assert table[0] == pytest.approx(1.7469e-7, rel=1e-4)
    assert table[15_999] == pytest.approx(table[3999] / 2)


@pytest.mark.parametrize(("width", "warmup"), [(64, 1), (16, 10), (128, 50)])
def test_the_papers_rate_is_highest_at_the_end_of_the_warm_up(width, warmup):
    rate: Callable[[int], float] = lambda step: inverse_sqrt(step, width, warmup)  # noqa: E731
    rates = [rate(step) for step in range(4 * warmup)]
    assert max(rates) == rates[warmup - 1] == pytest.approx((width * warmup) ** -0.5)
    assert all(rates[i] == pytest.approx((i + 1) * rates[0]) for i in range(warmup))
    assert rates[4 * warmup - 1] == pytest.approx(rates[warmup - 1] / 2)
