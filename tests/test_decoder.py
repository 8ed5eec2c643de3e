"""The decoder against slow references: its inner operations, both settings, causality and the cache of the past."""

import cmath
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import decoder
import lookback
from decoder import MODERN, Cache, Decoder, Places, parts_of
from kernels import FAST, PLAIN, Kernels, dropout
from lookback import NGRAMS, ngram_rows, shift, table_sizes
from tiny_decoder import VARIANTS, fresh_decoder, name_of, random_tokens, tiny_decoder, tiny_shape

ROOT = Path(__file__).resolve().parent.parent
OPERATIONS = ("rms_norm", "relu_squared", "rotate", "attention")
variants = pytest.mark.parametrize("variant", VARIANTS, ids=name_of)


def uniform(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (4 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 2).to(dtype)


def causal_mask(T: int, S: int, dtype: torch.dtype) -> Tensor:
    """(T, S): the last T of S tokens look at all S."""
    ahead = torch.arange(S)[None] > torch.arange(S - T, S)[:, None]
    return torch.zeros(T, S, dtype=dtype).masked_fill(ahead, -math.inf)


def operands(name: str, layout: str, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Differentiable operands and constants of an operation, laid out in memory in one of three ways.

    `strided`: views into larger or transposed tensors, as the decoder passes them. `cached`: fewer queries than keys.
    """
    B, T, H, D = 2, 5, 3, 8
    S = 9 if layout == "cached" else T
    if name == "attention":
        shapes = [(B * H, T, D), (B * H, S, D), (B * H, S, D)]
        constants = [causal_mask(T, S, dtype)]
    else:
        shapes = [(B, T, H, D)]
        angle = uniform(T, 1, D // 2, seed=9)
        constants = [angle.cos().to(dtype), angle.sin().to(dtype)] if name == "rotate" else []
    made = []
    for seed, shape in enumerate(shapes):
        if layout == "strided":
            wide = uniform(shape[-2] + 2, *shape[:-2], shape[-1], seed=seed, dtype=dtype).movedim(0, -2)
            x = wide[..., 1:-1, :]
            assert not x.is_contiguous()
        else:
            x = uniform(*shape, seed=seed, dtype=dtype)
        made.append(x.requires_grad_())
    return made, constants


def value_and_gradients(kernels: Kernels, name: str, xs: list[Tensor], constants: list[Tensor]) -> list[Tensor]:
    y = getattr(kernels, name)(*xs, *constants)
    weight = uniform(*y.shape, seed=77, dtype=y.dtype)
    return [y.detach(), *torch.autograd.grad(y, xs, weight)]


# ---------------------------------------------------------------- the inner operations


@pytest.mark.parametrize("layout", ["contiguous", "strided", "cached"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_fast_and_plain_operations_agree(name, layout):
    xs, constants = operands(name, layout, torch.float32)
    for fast, plain in zip(*(value_and_gradients(k, name, xs, constants) for k in (FAST, PLAIN)), strict=True):
        assert fast.shape == plain.shape
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["contiguous", "strided", "cached"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_fast_operations_in_bf16_are_the_plain_ones_in_fp32_rounded(name, layout):
    xs, constants = operands(name, layout, torch.bfloat16)
    exact = value_and_gradients(
        PLAIN, name, [x.detach().float().requires_grad_() for x in xs], [c.float() for c in constants]
    )
    for fast, plain in zip(value_and_gradients(FAST, name, xs, constants), exact, strict=True):
        assert fast.dtype == torch.bfloat16
        assert float((fast - plain).norm() / plain.norm()) < 0.01


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_gradient_that_is_one_number_spread_out_is_taken_too(name):
    # .sum().backward() hands down a tensor without memory of its own, which must not be written to
    xs, constants = operands(name, "contiguous", torch.float32)
    found = [torch.autograd.grad(getattr(k, name)(*xs, *constants).sum(), xs) for k in (FAST, PLAIN)]
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernels", [FAST, PLAIN], ids=["fast", "plain"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_are_the_limits_of_differences(name, kernels):
    for layout in ("contiguous", "strided", "cached"):
        xs, constants = operands(name, layout, torch.float64)
        assert torch.autograd.gradcheck(lambda *x, c=constants: getattr(kernels, name)(*x, *c), xs)


@pytest.mark.parametrize("name", OPERATIONS)
def test_plain_operations_have_second_derivatives_and_fast_ones_refuse(name):
    xs, constants = operands(name, "contiguous", torch.float64)
    assert torch.autograd.gradgradcheck(lambda *x: getattr(PLAIN, name)(*x, *constants), xs)
    for differentiate in (lambda total: torch.autograd.grad(total, xs), lambda total: total.backward()):
        y = getattr(FAST, name)(*xs, *constants).square().sum()
        with pytest.raises(RuntimeError):
            differentiate(torch.stack([g.sum() for g in torch.autograd.grad(y, xs, create_graph=True)]).sum())


@pytest.mark.parametrize("arch", ["modern", "vaswani"])
def test_a_second_derivative_of_the_fast_decoder_is_refused_and_not_wrong(arch):
    # Here part of the graph does reach the parameters a second time, so a gradient that is cut off would go unnoticed.
    model = tiny_decoder(arch)
    tokens = random_tokens(model, 2)
    ps = list(model.parameters())

    def hessian_times_gradient() -> tuple[Tensor, ...]:
        loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())
        first = torch.autograd.grad(loss, ps, create_graph=True)
        return torch.autograd.grad(torch.stack([0.5 * g.square().sum() for g in first]).sum(), ps)

    with pytest.raises(RuntimeError):
        hessian_times_gradient()
    model.kernels = PLAIN
    assert all(g.isfinite().all() for g in hessian_times_gradient())


def test_rms_norm_by_hand_and_at_zero():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)  # rms of the first: 5 / sqrt(2)
    for kernels in (FAST, PLAIN):
        y = kernels.rms_norm(x)
        torch.testing.assert_close(y, torch.tensor([[3.0, 4.0], [0.0, 0.0]]) * math.sqrt(2) / 5)
    (gradient,) = torch.autograd.grad(FAST.rms_norm(x).sum(), x)
    assert gradient.isfinite().all()


def naive_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Vaswani et al. 2017, eq. 1, one number at a time, in Python's double precision."""
    (N, T, D), S = q.shape, k.size(1)
    q, k, v = q.detach(), k.detach(), v.detach()
    y = torch.zeros(N, T, D, dtype=torch.float64)
    for n in range(N):
        for t in range(T):
            seen = [s for s in range(S) if mask[t, s] == 0]
            dots = [sum(float(q[n, t, d]) * float(k[n, s, d]) for d in range(D)) for s in seen]
            exps = [math.exp(dot / math.sqrt(D)) for dot in dots]
            for d in range(D):
                y[n, t, d] = sum(e * float(v[n, s, d]) for e, s in zip(exps, seen, strict=True)) / sum(exps)
    return y.float()


@pytest.mark.parametrize("kernels", [FAST, PLAIN], ids=["fast", "plain"])
@pytest.mark.parametrize("layout", ["contiguous", "cached"])
def test_attention_is_the_papers_formula(layout, kernels):
    xs, constants = operands("attention", layout, torch.float32)
    torch.testing.assert_close(kernels.attention(*xs, *constants), naive_attention(*xs, *constants))


# ---------------------------------------------------------------- positions


def places(start: int, length: int, **changes: Any) -> Places:
    return Places(tiny_shape(**changes), start, length, torch.device("cpu"), torch.float32)


def test_the_mask_of_a_later_stretch_reaches_back_to_the_beginning():
    assert places(2, 3).mask.tolist() == [
        [0, 0, 0, -math.inf, -math.inf],
        [0, 0, 0, 0, -math.inf],
        [0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("kernels", [FAST, PLAIN], ids=["fast", "plain"])
def test_rotated_dot_products_depend_on_the_distance_alone(kernels):
    T, D = 6, 16
    q, k = uniform(1, 1, 1, D, seed=0).expand(1, T, 1, D), uniform(1, 1, 1, D, seed=1).expand(1, T, 1, D)
    dots = {}
    for start in (0, 1, 50):
        at = places(start, T, width=32, heads=2)
        rq, rk = (kernels.rotate(x, at.cos, at.sin)[0, :, 0] for x in (q, k))
        torch.testing.assert_close(rq.norm(dim=-1), q[0, :, 0].norm(dim=-1))
        dots[start] = rq @ rk.T  # (T, T)
    for start in (0, 1, 50):
        torch.testing.assert_close(dots[start], dots[0], rtol=1e-4, atol=1e-4)
        for distance in range(-T + 1, T):
            line = dots[start].diagonal(distance)
            torch.testing.assert_close(line, line[:1].expand_as(line), rtol=1e-4, atol=1e-4)
    assert float(dots[0][:, 0].std()) > 0.1  # the distance does matter


def test_the_first_pair_of_channels_turns_by_one_radian_per_token():
    at = places(0, 4)
    x = torch.zeros(1, 4, 1, 16)
    x[..., 0] = 1.0
    turned = FAST.rotate(x, at.cos, at.sin)[0, :, 0]
    for t in range(4):
        assert turned[t, 0] == pytest.approx(math.cos(t), abs=1e-6)
        assert turned[t, 8] == pytest.approx(math.sin(t), abs=1e-6)


def test_sinusoids_are_the_papers():
    C, start = 32, 5
    found = places(start, 7, width=C).sinusoids
    assert found.shape == (7, C)
    for row in range(7):
        for i in range(C // 2):
            angle = (start + row) / 10_000 ** (2 * i / C)  # section 3.5
            assert found[row, 2 * i] == pytest.approx(math.sin(angle), abs=1e-5)
            assert found[row, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-5)


# ---------------------------------------------------------------- the paper's setting


def papers_decoder(model: Decoder, tokens: Tensor) -> Tensor:
    """The 2017 decoder out of PyTorch's own layers, with the parameters of `model`."""
    shape = model.shape
    C = shape.width
    position = torch.arange(tokens.size(1)).float()[:, None]
    angle = position / 10_000 ** (torch.arange(0, C, 2) / C)
    sinusoids = torch.zeros(tokens.size(1), C)
    sinusoids[:, 0::2], sinusoids[:, 1::2] = angle.sin(), angle.cos()
    x = math.sqrt(C) * model.embedding[tokens] + sinusoids
    blocks: Any = model.blocks
    for block in blocks:
        layer = nn.TransformerEncoderLayer(C, shape.heads, 4 * C, dropout=0.0, batch_first=True, norm_first=False)
        attention = layer.self_attn
        pairs: list[tuple[Any, Any]] = [
            (attention.in_proj_weight, block.qkv),
            (attention.out_proj.weight, block.output),
            (layer.linear1.weight, block.up),
            (layer.linear1.bias, block.up_bias),
            (layer.linear2.weight, block.down),
            (layer.linear2.bias, block.down_bias),
            (layer.norm1.weight, block.norms[0].weight),
            (layer.norm1.bias, block.norms[0].bias),
            (layer.norm2.weight, block.norms[1].weight),
            (layer.norm2.bias, block.norms[1].bias),
        ]
        with torch.no_grad():
            attention.in_proj_bias.zero_()
            attention.out_proj.bias.zero_()
            for theirs, ours in pairs:
                theirs.copy_(ours)
        T = tokens.size(1)
        x = layer(x, src_mask=nn.Transformer.generate_square_subsequent_mask(T), is_causal=True)
    return x @ model.embedding.T


@pytest.mark.parametrize("kernels", [FAST, PLAIN], ids=["fast", "plain"])
def test_the_papers_setting_is_pytorchs_post_norm_layers_on_scaled_embeddings(kernels):
    model = tiny_decoder("vaswani", kernels=kernels, layers=3, heads=4)
    tokens = random_tokens(model, 3)
    torch.testing.assert_close(model(tokens), papers_decoder(model, tokens), rtol=1e-4, atol=1e-5)


def test_embedding_and_head_of_the_paper_are_one_matrix():
    V, C, L = 13, 32, 2
    model = fresh_decoder("vaswani")
    assert model.head is None
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes.count((V, C)) == 1
    # per layer: 4 C^2 of attention, 8 C^2 + 5 C of the feed-forward net, 2 x 2 C of LayerNorm
    assert sum(p.numel() for p in model.parameters()) == V * C + L * (12 * C**2 + 9 * C)
    logits = model(torch.tensor([[1, 2]]))
    with torch.no_grad():
        model.embedding[7].add_(1.0)  # a token that was not read: the head alone sees the change
    assert (model(torch.tensor([[1, 2]])) != logits)[0, 0].tolist() == [token == 7 for token in range(V)]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_papers_logits_start_at_the_size_of_one(seed):
    model = fresh_decoder("vaswani", width=128, vocabulary=500, seed=seed)
    assert 0.8 < float(model(random_tokens(model, 4)).detach().std()) < 1.25


# ---------------------------------------------------------------- the modern setting


def slow_shift(x: Tensor) -> Tensor:
    """(T, C): sixteenths of the channels from one token before, from two before and so on; 0 before the beginning."""
    T, C = x.shape
    y = torch.zeros(T, C)
    for t in range(T):
        for c in range(C):
            lag = next((i for i in range(len(decoder.SHIFT)) if 16 * c < sum(decoder.SHIFT[: i + 1]) * C), None)
            source = t if lag is None else t - lag - 1
            y[t, c] = x[source, c] if source >= 0 else 0.0
    return y


@pytest.mark.parametrize("width", [16, 48, 64])
def test_the_shift_takes_each_channel_from_its_own_earlier_token(width):
    x = uniform(3, 7, width, seed=0)
    padded = torch.cat([x.new_zeros(3, len(decoder.SHIFT), width), x], 1)
    found = shift(padded)
    assert torch.equal(found, torch.stack([slow_shift(row) for row in x]))
    assert not torch.equal(found, x)
    assert torch.equal(found[:, :, -1], x[:, :, -1])  # not all of it is moved


def rms(x: Tensor) -> Tensor:
    return torch.stack([row / (math.sqrt(sum(float(c) ** 2 for c in row) / len(row)) + 1e-6) for row in x])


def turn(x: Tensor) -> Tensor:
    """(T, D): channels i and i + D/2 as one complex number, turned by position times its own speed."""
    T, D = x.shape
    y = torch.zeros(T, D)
    for t in range(T):
        for i in range(D // 2):
            speed = decoder.ROTARY_BASE ** (-i / (D // 2 - 1))
            z = complex(float(x[t, i]), float(x[t, i + D // 2])) * cmath.exp(1j * t * speed)
            y[t, i], y[t, i + D // 2] = z.real, z.imag
    return y


def slow_row(gram: list[int], vocabulary: int) -> int:
    """The row of an n-gram, its latest token first, in a table of its own."""
    key = sum(token * (vocabulary + 1) ** i for i, token in enumerate(gram))
    if (vocabulary + 1) ** len(gram) <= lookback.NGRAM_ROWS:
        return key
    product = key * 0x9E3779B1 % (1 << 64)  # as int64 wraps round
    return ((product - (1 << 64) if product >> 63 else product) >> 15) % lookback.NGRAM_ROWS


def slow_ngrams(model: Decoder, tokens: list[int]) -> Tensor:
    """What the tables of n-grams add, (T, C)."""
    V = model.shape.vocabulary
    assert model.ngrams is not None
    assert model.ngram_output is not None
    added = []
    for t in range(len(tokens)):
        rows, above = [], 0
        for n, size in zip(NGRAMS, table_sizes(V), strict=True):
            gram = [tokens[i] if i >= 0 else V for i in range(t, t - n, -1)]
            rows.append(model.ngrams[above + slow_row(gram, V)])
            above += size
        added.append(model.ngram_output @ torch.cat(rows))
    return torch.stack(added)


def modern_decoder(model: Decoder, tokens: Tensor) -> Tensor:
    """All modern parts, one sequence (T,) and one head at a time: logits (T, V)."""
    shape, T = model.shape, len(tokens)
    C, H = shape.width, shape.heads
    D = C // H
    mask = causal_mask(T, T, torch.float32)
    x0 = x = rms(model.embedding[tokens] + slow_ngrams(model, tokens.tolist()))
    blocks: Any = model.blocks
    for block in blocks:
        x = block.mix[0] * x + block.mix[1] * x0
        q, k, v = (rms(x) @ part.T for part in block.qkv.split(C))
        heads = []
        for h in range(H):
            mine = slice(h * D, (h + 1) * D)
            heads.append(
                naive_attention(turn(rms(q[:, mine]))[None], turn(rms(k[:, mine]))[None], v[None, :, mine], mask)
            )
        x = x + torch.cat(heads, -1)[0] @ block.output.T
        x = x + (slow_shift(rms(x)) @ block.up.T).clamp(min=0) ** 2 @ block.down.T
    assert model.head is not None
    return 15 * torch.tanh(rms(x) @ model.head.T / 15)


@pytest.mark.parametrize("kernels", [FAST, PLAIN], ids=["fast", "plain"])
def test_the_modern_setting_is_the_slow_one(kernels):
    model = tiny_decoder(kernels=kernels)
    tokens = random_tokens(model, 2, 7)
    with torch.no_grad():
        slow = torch.stack([modern_decoder(model, row) for row in tokens])
        torch.testing.assert_close(model(tokens), slow, rtol=1e-4, atol=1e-4)


def test_number_of_modern_parameters():
    V, C, L = 13, 32, 2
    # embedding and head; per layer 12 C^2 of matrices and the shortcut's two numbers; 32 columns for every n-gram
    # that has a row, and a matrix that takes those of all n to the width
    ngrams = 32 * (14**2 + (len(NGRAMS) - 1) * 512) + len(NGRAMS) * 32 * C
    assert sum(p.numel() for p in fresh_decoder().parameters()) == 2 * V * C + L * (12 * C**2 + 2) + ngrams


# ---------------------------------------------------------------- dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_right_part_and_its_mean(p, dtype):
    x = torch.ones(101, 333, dtype=dtype, requires_grad=True)  # not a multiple of 8 elements
    torch.manual_seed(0)
    y = dropout(x, p, True)
    kept = y.detach() != 0
    assert float(kept.float().mean()) == pytest.approx(1 - round(256 * p) / 256, abs=4 * 0.5 / math.sqrt(x.numel()))
    assert float(y.detach().float().mean()) == pytest.approx(1, abs=0.03 / (1 - p))
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())  # the gradient goes where the values went, and nowhere else
    # neighbours, also those of one random word, are dropped independently
    for lag in (1, 2, 3, 4, 8, 333):
        a, b = kept.flatten()[:-lag].float(), kept.flatten()[lag:].float()
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 4 / math.sqrt(len(a))
    torch.manual_seed(0)
    assert torch.equal(dropout(x, p, True), y)


def test_dropout_does_nothing_outside_training_and_leaves_odd_rates_to_pytorch():
    x = torch.randn(50, 60)
    assert torch.equal(dropout(x, 0.5, False), x)
    assert torch.equal(dropout(x, 0.0, True), x)
    for p in (0.001, 0.999):
        torch.manual_seed(0)
        ours = dropout(x, p, True)
        torch.manual_seed(0)
        assert torch.equal(ours, F.dropout(x, p))


# ---------------------------------------------------------------- the tables of n-grams


@pytest.mark.parametrize("vocabulary", [2, 13, 65, 50_000])
def test_ngram_rows_depend_on_the_ngram_alone_and_stay_in_their_table(vocabulary):
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary + 1, (4, 203), generator=random)
    rows = ngram_rows(tokens, vocabulary)
    assert rows.shape == (4, 204 - max(NGRAMS), len(NGRAMS))
    starts = torch.tensor([0, *table_sizes(vocabulary)]).cumsum(0)
    assert (rows >= starts[:-1]).all()
    assert (rows < starts[1:]).all()
    # The same last n tokens, whatever was before them, have the same row; another token among them has another, but for
    # hash collisions.
    for i, n in enumerate(NGRAMS):
        changed = tokens.clone()
        changed[:, : 203 - n] = torch.randint(vocabulary + 1, (4, 203 - n), generator=random)
        assert torch.equal(ngram_rows(changed, vocabulary)[:, -1, i], rows[:, -1, i])
        for back in range(n):
            other = tokens.clone()
            other[:, -1 - back] = (other[:, -1 - back] + 1) % (vocabulary + 1)
            assert (ngram_rows(other, vocabulary)[:, -1, i] != rows[:, -1, i]).sum() >= 3


def test_hashed_ngrams_spread_over_their_table(monkeypatch):
    """All 4-grams of 16 letters among 65 tokens, as many as a real table has rows, after one and the same token."""
    monkeypatch.setattr(lookback, "NGRAM_ROWS", 1 << 16)
    letters = torch.cartesian_prod(*[torch.arange(20, 36)] * 4)  # (16^4, 4)
    letters = torch.cat([torch.full((1 << 16, max(NGRAMS) - 4), 7), letters], 1)
    at = NGRAMS.index(4)
    rows = ngram_rows(letters, 65)[:, -1, at] - sum(table_sizes(65)[:at])
    counts = torch.bincount(rows, minlength=1 << 16).float()
    used = float((counts > 0).float().mean())
    assert 0.55 < used < 0.999  # chance alone leaves 1 - 1/e = 0.63 of the rows in use
    assert float(counts.max()) <= 12


def test_the_decoder_remembers_ngrams_across_the_cache():
    """Without the other parts that look back, only the tables can tell what was before the tokens that are read now."""
    model = tiny_decoder(without=("shift",))
    tokens = random_tokens(model, 2)
    with torch.no_grad():
        whole = model(tokens)
        cache = Cache(model.shape, 2, 12, model.embedding.new_empty(0))
        parts = [model(part, cache) for part in tokens.split([1, 1, 5, 5], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", [part for part in MODERN if part not in ("zeroinit", "untied")])
def test_a_new_modern_decoder_knows_exactly_nothing(part):
    for without in ((), (part,)):
        model = fresh_decoder(without=without)
        tokens = random_tokens(model, 4)
        logits = model(tokens)
        assert torch.equal(logits, torch.zeros_like(logits))
        loss = F.cross_entropy(logits.detach().flatten(0, 1), tokens.flatten())
        assert float(loss) == pytest.approx(math.log(13), abs=1e-6)


@pytest.mark.parametrize("part", ["zeroinit", "untied"])
def test_without_a_zero_head_there_are_logits_from_the_beginning(part):
    assert float(fresh_decoder(without=(part,))(torch.tensor([[3, 4]])).detach().std()) > 0.1


def test_every_part_makes_a_difference_and_none_is_in_the_paper():
    # `zeroinit` is about the beginning alone, and these decoders are past it.
    kinds = [variant for variant in VARIANTS if variant[1] != ("zeroinit",)]
    logits = [tiny_decoder(arch, without)(torch.arange(12)[None]) for arch, without in kinds]
    for i, one in enumerate(logits):
        for other in logits[:i]:
            assert float((one - other).abs().max()) > 1e-3
    assert parts_of("vaswani") == ()
    assert parts_of("modern") == tuple(MODERN)
    assert parts_of("modern", ("shift", "muon")) == tuple(part for part in MODERN if part != "shift")


def test_logits_are_capped_smoothly():
    model, without = tiny_decoder(), tiny_decoder(without=("softcap",))
    with torch.no_grad():
        assert model.head is not None
        assert without.head is not None
        for one in (model, without):
            one.head.mul_(20)  # type: ignore[union-attr]
        tokens = random_tokens(model, 2)
        capped, raw = model(tokens), without(tokens)
    assert float(raw.abs().max()) > 30
    assert float(capped.abs().max()) <= 15
    assert torch.equal(capped.argmax(-1), raw.argmax(-1))
    small = raw.abs() < 0.5  # hardly changed: tanh x = x - x^3 / 3
    assert small.any()
    torch.testing.assert_close(capped[small], raw[small], rtol=1e-3, atol=1e-5)


def test_dropout_acts_in_training_alone():
    for arch in ("modern", "vaswani"):
        model = tiny_decoder(arch, dropout=0.5)
        tokens = random_tokens(model, 1)
        assert torch.equal(model(tokens), tiny_decoder(arch)(tokens))
        model.train()
        assert not torch.equal(model(tokens), model(tokens))


# ---------------------------------------------------------------- causality

# (vocabulary, predicted positions) of the tasks: repeat with n = 5, ascending, induction, a text
TASK_SHAPES = [(5, 10), (64, 31), (256, 63), (96, 128)]


@pytest.mark.parametrize("shape", TASK_SHAPES, ids=["repeat", "ascending", "induction", "text"])
@variants
def test_later_tokens_never_change_earlier_logits(variant, shape):
    V, T = shape
    model = tiny_decoder(*variant, vocabulary=V, context=T)
    tokens = random_tokens(model, 2)
    with torch.no_grad():
        logits = model(tokens)
        for t in sorted({0, 1, 2, T // 2, T - 2}):
            changed = tokens.clone()
            changed[:, t + 1 :] = (changed[:, t + 1 :] + 1) % V
            again = model(changed)
            assert torch.equal(again[:, : t + 1], logits[:, : t + 1])
            assert not torch.equal(again[:, t + 1], logits[:, t + 1])


@pytest.mark.parametrize("kernels", [FAST, PLAIN], ids=["fast", "plain"])
@variants
def test_the_gradient_of_a_logit_with_respect_to_later_inputs_is_zero(variant, kernels, monkeypatch):
    model = tiny_decoder(*variant, kernels=kernels)
    inputs: list[Tensor] = []
    embed = model.embed

    def leaf(tokens: Tensor, at: Places, cache: Cache | None) -> Tensor:
        inputs.append(embed(tokens, at, cache).detach().requires_grad_())
        return inputs[-1]

    monkeypatch.setattr(model, "embed", leaf)
    logits = model(random_tokens(model, 1))
    T = logits.size(1)
    for t in range(T):
        for token in (0, 5):
            (gradient,) = torch.autograd.grad(logits[0, t, token], inputs[-1], retain_graph=True)
            assert torch.equal(gradient[0, t + 1 :], torch.zeros(T - t - 1, model.shape.width))
            assert (gradient[0, : t + 1] != 0).any(-1).all()  # and every token so far counts


# ---------------------------------------------------------------- the cache


@pytest.mark.parametrize(
    "chunks", [[12], [1] * 12, [5, *[1] * 7], [1, 2, 3, 6], [11, 1]], ids=lambda chunks: "-".join(map(str, chunks))
)
@variants
def test_reading_in_pieces_equals_reading_at_once(variant, chunks):
    model = tiny_decoder(*variant)
    tokens = random_tokens(model, 3)
    with torch.no_grad():
        whole = model(tokens)
        cache = Cache(model.shape, 3, 12, model.embedding)
        pieces = [model(piece, cache) for piece in tokens.split(chunks, 1)]
    assert cache.length == 12
    assert whole.std() > 0.1
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-5)


def test_a_cache_with_room_to_spare_changes_nothing():
    model = tiny_decoder()
    tokens = random_tokens(model, 2, 6)
    with torch.no_grad():
        cache = Cache(model.shape, 2, 40, model.embedding)
        found = torch.cat([model(piece, cache) for piece in tokens.split([4, 2], 1)], 1)
        torch.testing.assert_close(found, model(tokens), rtol=0, atol=1e-5)


def test_more_lengths_than_are_remembered_change_nothing():
    model = tiny_decoder()
    with torch.no_grad():
        first = model(random_tokens(model, 1, 5))
        for start in range(200):  # the constants of each (start, length) are kept, but not of ever so many
            model.places(start, 1)
        assert len(model._places) < 100
        assert torch.equal(model(random_tokens(model, 1, 5)), first)


# ---------------------------------------------------------------- numbers of fewer bits


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_bf16_does_no_harm(variant):
    model = tiny_decoder(*variant, vocabulary=64, context=48, width=64)
    tokens = random_tokens(model, 8)
    losses = {}
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            model.compute = dtype
            logits = model(tokens)
            assert logits.dtype == torch.float32
            losses[dtype] = float(F.cross_entropy(logits.flatten(0, 1), tokens.roll(-1, 1).flatten()))
    assert abs(losses[torch.float32] - losses[torch.bfloat16]) < 0.02
    assert losses[torch.float32] != losses[torch.bfloat16]


@variants
def test_fast_and_plain_decoders_have_the_same_gradients(variant):
    model = tiny_decoder(*variant)
    tokens = random_tokens(model, 4)
    found = []
    for kernels in (FAST, PLAIN):
        model.kernels = kernels
        loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)


def test_a_shape_is_all_that_decides_a_decoder():
    shape = tiny_shape()
    torch.manual_seed(3)
    one = Decoder(shape)
    torch.manual_seed(3)
    other = Decoder(replace(shape))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_decoder_can_be_read_in_one_sitting():
    assert len((ROOT / "transformers/decoder.py").read_text().splitlines()) <= 250
